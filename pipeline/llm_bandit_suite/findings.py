"""What a check hands to the report: claims with their goals, tables, and all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One goal and what was found.

    Attributes:
        goal: in words.
        figure: what was measured, in words.
        passed: None where the goal does not apply.
    """

    goal: str
    figure: str
    passed: bool | None


@dataclass(frozen=True)
class Table:
    """Figures in words, ready to print; every row as long as the header."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: of the check.
        title: of its section.
        note: how it was measured.
        claims: goals.
        tables: what is shown.
        figures: everything measured, for other programs.
    """

    name: str
    title: str
    note: str
    claims: Sequence[Claim]
    tables: Sequence[Table]
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts and numbers."""
        return asdict(self)
