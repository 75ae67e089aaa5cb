"""What all configuration groups are built of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def absolute(value: str) -> str:
    """Return a local path made absolute; a URI as it is."""
    return value if "://" in value else str(Path(value).expanduser().absolute())


PathOrUri = Annotated[str, Field(min_length=1), AfterValidator(absolute)]
"""A local path (made absolute, so that jobs may run elsewhere) or a file system URI."""


class Config(BaseModel):
    """Base of all groups: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
