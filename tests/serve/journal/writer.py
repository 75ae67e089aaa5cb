"""A process that writes decisions and outcomes as fast as it can, and tells each once it is acknowledged.

    python writer.py DIRECTORY

Lines on stdout: ``decision ID`` and ``outcome ID``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from serve.journal.journal import Journal
from serve.journal.records import Outcome
from serve.settings.log import DecisionLogSettings
from tests.serve.journal.cases import a_decision

CLIENTS = 8


async def write(journal: Journal) -> None:
    """Write until killed."""
    while True:
        decision_id = journal.ids.mint()
        await journal.record(a_decision(decision_id))
        os.write(1, f"decision {decision_id}\n".encode())
        await journal.record_outcome(decision_id, Outcome(score=1.0, cost_usd=0.5), "feedback")
        os.write(1, f"outcome {decision_id}\n".encode())


async def main(directory: str) -> None:
    """Write from several clients at once."""
    journal = Journal.open(DecisionLogSettings(directory=directory, rows_per_file=100))
    await asyncio.gather(*(write(journal) for _ in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
