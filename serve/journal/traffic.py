"""What went through, from counters by minute that every commit brings up to date."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

BUCKET_S = 60

COUNTERS = (
    "decisions",
    "expected_cost_usd",
    "best_cost_usd",
    "errors",
    "feedback",
    "score",
    "known_costs",
    "known_cost_usd",
    "expected_of_known_usd",
)

TABLE = f"""
CREATE TABLE IF NOT EXISTS traffic (
    bucket INTEGER NOT NULL, model TEXT NOT NULL, policy_version TEXT NOT NULL, release TEXT NOT NULL,
    {", ".join(f"{name} REAL NOT NULL DEFAULT 0" for name in COUNTERS)},
    PRIMARY KEY (bucket, model, policy_version, release)
) WITHOUT ROWID
"""

_UPSERT = f"""
INSERT INTO traffic (bucket, model, policy_version, release, {", ".join(COUNTERS)})
VALUES ({", ".join("?" * (4 + len(COUNTERS)))})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTERS)}
"""

Key = tuple[int, str, str, str]


@dataclass(frozen=True)
class TrafficSummary:
    """Traffic of the last ``window_s`` seconds, by whole minutes.

    A decision whose call failed counts as a decision and as an error, and costs nothing.

    Attributes:
        window_s: as asked for.
        decisions: made in the window; what came of them later is counted as well.
        by_model: decisions.
        by_version: decisions by policy version.
        by_release: decisions by ``champion`` and ``canary``.
        expected_cost_usd: of the chosen models.
        cost_usd: actual cost where known, else expected.
        known_costs: decisions whose actual cost is known.
        always_best_cost_usd: expected cost, had always-best answered.
        savings_usd: ``always_best_cost_usd - cost_usd``.
        feedback: decisions with a score.
        mean_score: of those; None without any.
        errors: decisions whose call failed.
    """

    window_s: float
    decisions: int = 0
    by_model: dict[str, int] = field(default_factory=dict)
    by_version: dict[str, int] = field(default_factory=dict)
    by_release: dict[str, int] = field(default_factory=dict)
    expected_cost_usd: float = 0.0
    cost_usd: float = 0.0
    known_costs: int = 0
    always_best_cost_usd: float = 0.0
    savings_usd: float = 0.0
    feedback: int = 0
    mean_score: float | None = None
    errors: int = 0

    @property
    def feedback_rate(self) -> float:
        """Share of decisions with a score, 0 without decisions."""
        return self.feedback / self.decisions if self.decisions else 0.0


class TrafficChanges:
    """Counts of one transaction, written in as few rows as they need."""

    def __init__(self) -> None:
        self._changes: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, at_us: int, model: str, policy_version: str, release: str, **counts: float) -> None:
        """Add counts to the minute of a decision."""
        found = self._changes[(at_us // (BUCKET_S * 1_000_000), model, policy_version, release)]
        for name, value in counts.items():
            found[name] += value

    def write(self, connection: sqlite3.Connection) -> None:
        """Write everything added."""
        rows: Iterable[tuple] = (
            (*key, *(counts.get(name, 0.0) for name in COUNTERS)) for key, counts in self._changes.items()
        )
        connection.executemany(_UPSERT, rows)


def summary(connection: sqlite3.Connection, window_s: float, now_us: int) -> TrafficSummary:
    """Return the traffic of the last ``window_s`` seconds."""
    first = int(now_us - window_s * 1e6) // (BUCKET_S * 1_000_000)
    sums = ", ".join(f"SUM({name})" for name in COUNTERS)
    rows = connection.execute(
        f"SELECT model, policy_version, release, {sums} FROM traffic WHERE bucket >= ? GROUP BY 1, 2, 3",
        (first,),
    ).fetchall()
    by_model: dict[str, int] = defaultdict(int)
    by_version: dict[str, int] = defaultdict(int)
    by_release: dict[str, int] = defaultdict(int)
    total: dict[str, float] = dict.fromkeys(COUNTERS, 0.0)
    for model, version, release, *counts in rows:
        for name, value in zip(COUNTERS, counts):
            total[name] += value
        for split, label in ((by_model, model), (by_version, version), (by_release, release)):
            split[label] += round(counts[0])
    cost_usd = total["expected_cost_usd"] - total["expected_of_known_usd"] + total["known_cost_usd"]
    feedback = round(total["feedback"])
    return TrafficSummary(
        window_s=window_s,
        decisions=round(total["decisions"]),
        by_model=dict(by_model),
        by_version=dict(by_version),
        by_release=dict(by_release),
        expected_cost_usd=total["expected_cost_usd"],
        cost_usd=cost_usd,
        known_costs=round(total["known_costs"]),
        always_best_cost_usd=total["best_cost_usd"],
        savings_usd=total["best_cost_usd"] - cost_usd,
        feedback=feedback,
        mean_score=total["score"] / feedback if feedback else None,
        errors=round(total["errors"]),
    )
