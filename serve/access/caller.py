"""Whose request it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["route", "admin"]
ROLES: tuple[Role, ...] = ("route", "admin")


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        key_id: identifies the key in the log and in figures; not secret. None when keys are off.
        name: given to the key by whoever made it.
        roles: ``route`` may ask, ``admin`` may change what is served.
    """

    key_id: str | None
    name: str
    roles: frozenset[str]


ANYONE = Caller(None, "anyone", frozenset(ROLES))
"""Who everybody is when keys are off."""
