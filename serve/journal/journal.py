"""The journal: one SQLite file per node, shared by the processes of its replicas.

Write-ahead logging keeps readers and the writer out of each other's way. Writers of several processes take turns by
a file lock, which wakes the next one at once, where SQLite's own waiting sleeps for milliseconds; the system
releases it when a process dies. A transaction that a killed process left behind is rolled back by the next one
that opens the file.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from policies.bundle import EncoderIdentity
from policies.errors import InputError
from serve.journal.commit import GroupCommit
from serve.journal.ids import JOURNAL_DIGITS, DecisionIds
from serve.journal.records import DecisionRecord, Outcome, OutcomeStatus, SessionTurn
from serve.journal.rows import (
    DECISION_COLUMNS,
    INSERT,
    OUTCOME_COLUMNS,
    SCHEMA,
    SELECT,
    Source,
    from_row,
    from_us,
    to_row,
)
from serve.journal.traffic import TrafficChanges, TrafficSummary, summary
from serve.settings.log import DecisionLogSettings

DATABASE = "journal.sqlite3"
LOCK = "journal.lock"
KEY = "decision-ids.key"
FORMAT_VERSION = 1
WAL_BYTES = 64 * 2**20
"""What is left of the write-ahead log after a checkpoint."""
BUSY_S = 30.0
"""How long a connection waits for others before it gives up."""

_CHANGED = (
    "INSERT INTO files (number, changes) VALUES (?, ?) "
    "ON CONFLICT DO UPDATE SET changes = changes + excluded.changes"
)
_KNOWN = (
    f"SELECT seq, at_us, model, policy_version, release, expected_cost_usd, best_cost_usd, "
    f"{', '.join(OUTCOME_COLUMNS.values())} FROM decisions WHERE decision_id = ?"
)


@dataclass(frozen=True)
class _Told:
    decision_id: str
    outcome: Outcome


Row = tuple[Any, ...]
Job = Row | _Told


class _LockFile:
    """A file descriptor that is closed with the thread that it belongs to."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Journal:
    """Decisions and what came of them. Made by :meth:`open`.

    Reads run on the caller's thread and take tens of microseconds; writes wait for their group commit.

    Attributes:
        ids: mints and checks decision ids.
        settings: as opened.
        rows_per_file: decisions of one export file.
    """

    def __init__(self, directory: Path, settings: DecisionLogSettings, temporary: bool) -> None:
        self.settings = settings
        self.directory = directory
        self._temporary = temporary
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        with self._locked():
            writer = self._connect()
            meta = _prepared(writer, settings, directory)
        self.rows_per_file = int(meta["rows_per_file"])
        self.ids = DecisionIds(meta["journal_id"], _key(settings, directory, self._locked))
        self._writer = writer
        self._commits: GroupCommit[Job] = GroupCommit(self._transact, "journal")

    @classmethod
    def open(cls, settings: DecisionLogSettings) -> Self:
        """Open the journal that the settings name, or make it.

        Raises:
            InputError: the folder cannot be written, or holds a journal of another format.
        """
        if settings.directory is None:
            return cls(Path(tempfile.mkdtemp(prefix="tradewind-journal-")), settings, temporary=True)
        directory = Path(settings.directory).expanduser()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            return cls(directory, settings, temporary=False)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"log.directory={settings.directory}: {error}") from None

    async def record(self, record: DecisionRecord) -> None:
        """Return once the decision is on disk; one that is there already is left as it is."""
        await self._commits.submit(to_row(record))

    async def record_many(self, records: Sequence[DecisionRecord]) -> None:
        """Return once all the decisions are on disk."""
        rows = [to_row(record) for record in records]
        await asyncio.gather(*(self._commits.submit(row) for row in rows))

    async def record_outcome(self, decision_id: str, outcome: Outcome, source: Source) -> OutcomeStatus:
        """Join what came of a decision, exactly once, and return what was done once it is on disk.

        Fields add up over several calls; a known field never changes (``conflict``).
        """
        status: OutcomeStatus = await self._commits.submit(_Told(decision_id, outcome))
        return status

    def find(self, decision_id: str) -> tuple[DecisionRecord, Outcome] | None:
        """Return a decision and what is known of it, None when it is not (or no longer) in the journal."""
        row = self.reader.execute(f"{SELECT} WHERE decision_id = ?", (decision_id,)).fetchone()
        return None if row is None else from_row(row)

    def last_turn(self, session_id: str) -> SessionTurn | None:
        """Return the session's latest decision whose call is not known to have failed."""
        row = self.reader.execute(
            "SELECT model, at_us, prompt_tokens FROM decisions "
            "WHERE session_id = ? AND error IS NULL ORDER BY seq DESC LIMIT 1",
            (session_id,),
        ).fetchone()
        return None if row is None else SessionTurn(row[0], from_us(row[1]), row[2])

    def traffic(self, window_s: float) -> TrafficSummary:
        """Return what went through all replicas of the node in the last ``window_s`` seconds."""
        return summary(self.reader, window_s, time.time_ns() // 1_000)

    @property
    def reader(self) -> sqlite3.Connection:
        """The calling thread's own connection for reading."""
        found = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
            found.execute("PRAGMA query_only = ON")
        return found

    def backlog(self) -> int:
        """Return how many recorded decisions and outcomes are not exported yet."""
        found = self.reader.execute("SELECT SUM(changes - exported) FROM files").fetchone()[0]
        return int(found or 0)

    def describe_encoder(self, policy_version: str, identity: EncoderIdentity) -> None:
        """Remember whose vectors a policy decides on; exported embeddings are told apart by it. Blocks."""
        with self.connection() as connection, self.transaction(connection):
            connection.execute(
                "INSERT OR IGNORE INTO encoders VALUES (?, ?)",
                (policy_version, json.dumps(asdict(identity), sort_keys=True)),
            )

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Give a connection of its own, for upkeep on any thread."""
        connection = self._connect()
        try:
            yield connection
        finally:
            self._opened.remove(connection)
            connection.close()

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Run a transaction that writes, in turn with those of all processes; keep it short."""
        with self._locked():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        """Write what waits and let go of the files; a temporary journal is removed. May be called again."""
        self._commits.close()
        while self._opened:
            self._opened.pop().close()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.directory / DATABASE, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._opened.append(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        level = "OFF" if self._temporary else self.settings.synchronous.upper()
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        return connection

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A lock belongs to an open file; one for each thread, so that threads take turns as processes do.
        handle = getattr(self._local, "lock", None)
        if handle is None:
            handle = self._local.lock = self._open_lock()
        fcntl.flock(handle.fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle.fd, fcntl.LOCK_UN)

    def _open_lock(self) -> _LockFile:
        return _LockFile(os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _transact(self, jobs: list[Job]) -> list[OutcomeStatus]:
        traffic, changed = TrafficChanges(), Counter[int]()
        with self.transaction(self._writer):
            results = [
                self._join(job, traffic, changed)
                if isinstance(job, _Told)
                else self._insert(job, traffic, changed)
                for job in jobs
            ]
            traffic.write(self._writer)
            self._writer.executemany(_CHANGED, changed.items())
        return results

    def _insert(self, row: Row, traffic: TrafficChanges, changed: Counter[int]) -> OutcomeStatus:
        cursor = self._writer.execute(INSERT, row)
        if cursor.rowcount == 0:
            return "duplicate"
        assert cursor.lastrowid is not None
        changed[(cursor.lastrowid - 1) // self.rows_per_file] += 1
        named = dict(zip(DECISION_COLUMNS, row))
        traffic.add(
            named["at_us"], named["model"], named["policy_version"], named["release"], decisions=1,
            expected_cost_usd=named["expected_cost_usd"], best_cost_usd=named["best_cost_usd"],
        )  # fmt: skip
        return "recorded"

    def _join(self, told: _Told, traffic: TrafficChanges, changed: Counter[int]) -> OutcomeStatus:
        found = self._writer.execute(_KNOWN, (told.decision_id,)).fetchone()
        if found is None:
            return "unknown"
        seq, at_us, model, version, release, expected_usd, best_usd, *values = found
        known = dict(zip(OUTCOME_COLUMNS, values))
        new: dict[str, Any] = {}
        for name in (field.name for field in fields(Outcome)):
            value = getattr(told.outcome, name)
            if value is not None and known[name] is None:
                new[name] = value
            elif value is not None and known[name] != value:
                return "conflict"
        if not new:
            return "duplicate"
        assignments = ", ".join(f"{OUTCOME_COLUMNS[name]} = ?" for name in new)
        self._writer.execute(f"UPDATE decisions SET {assignments} WHERE seq = ?", (*new.values(), seq))
        changed[(seq - 1) // self.rows_per_file] += 1
        counts: dict[str, float] = {}
        if "score" in new:
            counts |= {"feedback": 1, "score": new["score"]}
        if "cost_usd" in new:
            counts |= {"known_costs": 1, "known_cost_usd": new["cost_usd"]}
        # Expected costs count where a call was made; one that failed and has no bill cost nothing.
        failed, billed = (known["error"] or new.get("error")), (known["cost_usd"], new.get("cost_usd"))
        if "cost_usd" in new and not failed:
            counts["expected_of_known_usd"] = expected_usd
        if "error" in new:
            counts |= {"errors": 1, "expected_cost_usd": -expected_usd, "best_cost_usd": -best_usd}
            if billed[0] is not None:
                counts["expected_of_known_usd"] = -expected_usd
        traffic.add(at_us, model, version, release, **counts)
        return "recorded"


def _prepared(
    connection: sqlite3.Connection, settings: DecisionLogSettings, directory: Path
) -> dict[str, Any]:
    for statement in SCHEMA:
        connection.execute(statement)
    defaults = {
        "format_version": FORMAT_VERSION,
        "journal_id": os.urandom(JOURNAL_DIGITS // 2).hex(),
        "rows_per_file": settings.rows_per_file,
    }
    connection.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", defaults.items())
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if meta["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{directory / DATABASE}: format_version {meta['format_version']}; allowed: {FORMAT_VERSION}"
        )
    return meta


def _key(settings: DecisionLogSettings, directory: Path, locked: Any) -> bytes:
    given = os.environ.get(settings.id_key_env)
    if given:
        return given.encode()
    path = directory / KEY
    with locked():
        if not path.exists():
            staging = path.with_suffix(".tmp")
            staging.touch(mode=0o600)
            staging.write_text(os.urandom(32).hex())
            staging.replace(path)
        return path.read_text().encode()
