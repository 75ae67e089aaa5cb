"""From the journal to the Parquet log, again and again, by one process of the node at a time.

The journal's rows are cut into ranges of a fixed number of rows, and each range is one file whose name says journal
and range. A range that changed since, because it grew or because an outcome came late, is written anew under the
same name. A file therefore never holds a decision that another file of the log holds, whatever is killed when.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from policies.bundle import EncoderIdentity
from policies.leftovers import remove_leftovers, temporary_beside
from serve.journal.journal import Journal
from serve.journal.rows import SELECT
from serve.journal.tables import embeddings_tables, events_table, named, prompts_table
from serve.journal.traffic import BUCKET_S

log = logging.getLogger(__name__)

LEASE = "export.lock"
EVENTS, PROMPTS, EMBEDDINGS = "feedback", "prompts", "embeddings"


class Exporter:
    """Writes what changed, and drops what is exported and old.

    Args:
        journal: whose rows.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        settings = journal.settings
        self.folder: str | None = None
        if settings.directory is not None and settings.export:
            self.folder = settings.export_directory or str(journal.directory / "export")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Export in the background, and once more on leaving."""
        task = asyncio.create_task(self._repeat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(self.safely)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._journal.settings.export_interval_s)
            await asyncio.shield(asyncio.to_thread(self.safely))

    def safely(self) -> None:
        """As :meth:`run`, but a failure is logged: the journal keeps what could not be written, for the next time."""
        try:
            self.run()
        except Exception:
            log.exception(
                "the decision log could not be exported to %s; it stays in the journal", self.folder
            )

    def run(self) -> int:
        """Write every range that changed, prune, and return the number of ranges written.

        Does nothing, and returns 0, while another process of the node is at it.

        Raises:
            OSError: the folder cannot be written.
        """
        lease = os.open(self._journal.directory / LEASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            written = 0
            if self.folder is not None:
                with self._journal.connection() as connection:
                    changed = connection.execute(
                        "SELECT number FROM files WHERE changes > exported ORDER BY number"
                    ).fetchall()
                for (number,) in changed:
                    self._export(number)
                written = len(changed)
            self._prune()
            return written
        finally:
            os.close(lease)

    def _export(self, number: int) -> None:
        size = self._journal.rows_per_file
        with self._journal.connection() as connection:
            connection.execute("BEGIN")  # one state of the journal for the rows and their count of changes
            changes = connection.execute("SELECT changes FROM files WHERE number = ?", (number,)).fetchone()[
                0
            ]
            rows = connection.execute(
                f"{SELECT} WHERE seq BETWEEN ? AND ? ORDER BY seq", (number * size + 1, (number + 1) * size)
            ).fetchall()
            encoders = connection.execute("SELECT policy_version, identity FROM encoders").fetchall()
            connection.execute("COMMIT")
        values = named(rows)
        name = f"{self._journal.ids.journal_id}-{number:08d}.parquet"
        # Vectors and texts first: whoever finds an event finds its prompt.
        identities = {version: EncoderIdentity(**json.loads(body)) for version, body in encoders}
        for folder, table in embeddings_tables(values, identities).items():
            publish(table, f"{self.folder}/{EMBEDDINGS}/{folder}/{name}")
        prompts = prompts_table(values)
        if prompts.num_rows:
            publish(prompts, f"{self.folder}/{PROMPTS}/{name}")
        publish(events_table(values), f"{self.folder}/{EVENTS}/{name}")
        with self._journal.connection() as connection, self._journal.transaction(connection):
            connection.execute("UPDATE files SET exported = ? WHERE number = ?", (changes, number))

    def _prune(self) -> None:
        """Delete whole ranges that are exported, complete, and old or too many."""
        settings, size = self._journal.settings, self._journal.rows_per_file
        oldest_us = (time.time_ns() // 1_000) - int(settings.retention_s * 1e6)
        with self._journal.connection() as connection:
            last = connection.execute("SELECT MAX(seq) FROM decisions").fetchone()[0]
            if last is None:
                return
            exported = "" if self.folder is None else "AND exported = changes"
            # The current range is never complete, so that its number never starts anew.
            files = connection.execute(
                f"SELECT number FROM files WHERE number < ? {exported} ORDER BY number", ((last - 1) // size,)
            ).fetchall()
            excess = connection.execute("SELECT COUNT(*) FROM decisions").fetchone()[0] - settings.max_rows
            for (number,) in files:
                bounds = (number * size + 1, (number + 1) * size)
                newest = connection.execute(
                    "SELECT MAX(at_us), COUNT(*) FROM decisions WHERE seq BETWEEN ? AND ?", bounds
                ).fetchone()
                if excess <= 0 and newest[0] is not None and newest[0] >= oldest_us:
                    continue
                excess -= newest[1]
                self._delete(connection, number, *bounds)
            with self._journal.transaction(connection):
                connection.execute(
                    "DELETE FROM traffic WHERE bucket < ?", (oldest_us // (BUCKET_S * 1_000_000),)
                )

    def _delete(self, connection: sqlite3.Connection, number: int, first: int, last: int) -> None:
        # In one piece: half a range, exported anew for a late outcome, would replace the whole one.
        with self._journal.transaction(connection):
            if self.folder is not None and connection.execute(
                "SELECT changes > exported FROM files WHERE number = ?", (number,)
            ).fetchone() != (0,):
                return
            connection.execute("DELETE FROM decisions WHERE seq BETWEEN ? AND ?", (first, last))
            connection.execute("DELETE FROM files WHERE number = ?", (number,))


def publish(table: pa.Table, uri: str) -> None:
    """Write a Parquet file that readers see whole or not at all; on local disks it survives a power cut."""
    fs, path = fsspec.core.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    if not isinstance(fs, LocalFileSystem):
        with fs.open(path, "wb") as stream:  # object stores publish on close
            pq.write_table(table, stream, compression="zstd")
        return
    staging = temporary_beside(Path(path))
    remove_leftovers(staging.parent, Path(path).name)
    try:
        with staging.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
