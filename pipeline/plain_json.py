"""``metrics.json``: strict JSON, the same bytes for the same figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIGNIFICANT_DIGITS = 12
"""Kept: beyond them sums differ between machines."""

NOISE = 1e-15
"""Smaller figures are what is left of a difference of equal sums, not a finding."""


def plain(value: Any) -> Any:
    """Return JSON values in the file's order: rounded floats, None for what is undefined, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int) or value is None:
        return value
    number = float(value)
    if abs(number) < NOISE:
        return 0.0
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(number) else None


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write a file as a whole: keys sorted, no NaN."""
    staging = path.with_name(path.name + ".tmp")
    staging.write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n")
    staging.replace(path)
