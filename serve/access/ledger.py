"""What each key may spend and has spent, kept in SQLite, dealt out to replicas in slices.

A slice counts as spent from the moment it is handed out until it is given back, so the sum of all spending cannot
pass a budget whatever replicas fail to do: one that is killed takes its slice with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serve.settings.access import KeySettings

NANO = 1_000_000_000
"""Money is counted in whole billionths of a dollar: sums of floats would drift."""

MIN_HOLD_S = 1.0
NEXT_TO_NOTHING = 4
"""A slice takes at most one part in so many of what is left, so that replicas share the end of a budget."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS holdings (
    key_id TEXT NOT NULL,
    day TEXT NOT NULL,
    holder TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (key_id, day, holder)
) WITHOUT ROWID
"""


def utc_now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class UsdLease:
    """Money that a replica may spend.

    Attributes:
        nano_usd: how much was handed out, 0 when the budget cannot give what was needed.
        left_nano_usd: what the key's budgets have left after that.
        day: the budget's day that it was taken from, ISO.
        expires_s: seconds after which the rest must be given back: a day's money is not spent on the next.
        retry_after_s: when refused, seconds until a budget starts anew, None when none does.
    """

    nano_usd: int
    left_nano_usd: int
    day: str
    expires_s: float
    retry_after_s: float | None


class Ledger:
    """The budgets of all keys.

    Args:
        path: the SQLite file; None keeps it in memory.
        keys: budgets by key id.
        slice_share: part of the smallest budget that is handed out at a time.
        now: the time, UTC.
    """

    def __init__(
        self,
        path: Path | None,
        keys: Mapping[str, KeySettings],
        slice_share: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._keys = keys
        self._share = slice_share
        self._now = now
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=30.0, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_SCHEMA)

    def lease(self, key_id: str, holder: str, sequence: int, needed_nano_usd: int) -> UsdLease:
        """Hand out a slice of at least what is needed, or nothing.

        Args:
            key_id: whose budget.
            holder: the replica, unique to its process.
            sequence: rises with every lease and report of the holder.
            needed_nano_usd: at least 1.
        """
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        day = now.date().isoformat()
        with self._transaction():
            left, reset = self._left(key_id, now)
            granted = 0
            if needed_nano_usd <= left:
                usual = min(int(self._smallest(key_id) * self._share), left // NEXT_TO_NOTHING)
                granted = max(needed_nano_usd, usual)
                self._add(key_id, day, holder, sequence, granted)
        return UsdLease(
            granted, left - granted, day, max((midnight - now).total_seconds(), MIN_HOLD_S), reset
        )

    def report(self, key_id: str, day: str, holder: str, sequence: int, nano_usd: int) -> None:
        """Set what a replica has of a day's money, spent or not, to what the replica says.

        Saying it twice changes nothing, and what was said earlier but arrives late is ignored, so a replica may
        repeat itself when an answer got lost.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO holdings VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "nano_usd = excluded.nano_usd, sequence = excluded.sequence "
                "WHERE sequence < excluded.sequence",
                (key_id, day, holder, nano_usd, sequence),
            )

    def left_nano_usd(self, key_id: str) -> int:
        """Return what the key's budgets have left to hand out."""
        return self._left(key_id, self._now())[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _left(self, key_id: str, now: datetime) -> tuple[int, float | None]:
        """Return what is left and, where nothing is, seconds until a budget starts anew."""
        key = self._keys[key_id]
        day, month = now.date().isoformat(), f"{now:%Y-%m}"
        tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        next_month = (now.replace(day=1) + timedelta(days=32)).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        budgets = (
            (key.usd_per_day, day, (tomorrow - now).total_seconds()),
            (key.usd_per_month, month, (next_month - now).total_seconds()),
            (key.usd_total, "", None),
        )
        found: list[tuple[int, float | None]] = []
        for usd, prefix, reset_s in budgets:
            if usd is not None:
                (held,) = self._db.execute(
                    "SELECT COALESCE(SUM(nano_usd), 0) FROM holdings WHERE key_id=? AND day >= ? AND day < ?",
                    (key_id, prefix, prefix + "~"),
                ).fetchone()
                found.append((round(usd * NANO) - held, reset_s))
        return min(found, key=lambda entry: entry[0])

    def _smallest(self, key_id: str) -> int:
        key = self._keys[key_id]
        budgets = (key.usd_per_day, key.usd_per_month, key.usd_total)
        return min(round(usd * NANO) for usd in budgets if usd is not None)

    def _add(self, key_id: str, day: str, holder: str, sequence: int, nano_usd: int) -> None:
        self._db.execute(
            "INSERT INTO holdings VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "nano_usd = nano_usd + excluded.nano_usd, sequence = MAX(sequence, excluded.sequence)",
            (key_id, day, holder, nano_usd, sequence),
        )

    def _transaction(self) -> _Immediate:
        return _Immediate(self._db)


class _Immediate:
    """A transaction that holds the write lock from its start: what it read stays true until it commits."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
