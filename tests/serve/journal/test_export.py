from __future__ import annotations

import asyncio
import fcntl
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.embedding_table import read_embeddings
from pipeline.served_log import distinct_prompts
from pipeline.tables import read_table, to_polars
from policies.bundle import EncoderIdentity
from policies.leftovers import this_process
from policies.schemas import FEEDBACK, PROMPTS, UNLOGGED
from serve.journal.export import LEASE, Exporter
from serve.journal.journal import Journal
from serve.journal.records import Outcome
from serve.settings.log import DecisionLogSettings
from tests.policies.leftovers_case import gone_process, left_by
from tests.serve.journal.cases import a_decision

ENCODER = EncoderIdentity("minilm", "ab" * 32, "torch-fp32", 3, 64)
LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
def opened(tmp_path):
    journals = []

    def open_journal(name: str = "log", **settings: Any) -> Journal:
        values = {"directory": str(tmp_path / name), "rows_per_file": 4, **settings}
        journals.append(Journal.open(DecisionLogSettings(**values)))
        return journals[-1]

    yield open_journal
    for journal in journals:
        journal.close()


def record(journal, *decisions):
    asyncio.run(journal.record_many(decisions))


def tell(journal, decision_id, **fields):
    return asyncio.run(journal.record_outcome(decision_id, Outcome(**fields), "feedback"))


def written(exporter: Exporter) -> dict[str, int]:
    """Return when each file of events was written, by name."""
    assert exporter.folder is not None
    return {path.name: path.stat().st_mtime_ns for path in Path(exporter.folder, "feedback").iterdir()}


def events(journal: Journal) -> pl.DataFrame:
    return to_polars(read_table(FEEDBACK, f"{Exporter(journal).folder}/feedback"))


def test_the_log_is_a_feedback_table_with_every_decision_once(opened):
    journal = opened()
    record(journal, *(a_decision(f"d{i}", prompt_id=f"p{i}", prompt_tokens=i) for i in range(10)))
    tell(journal, "d3", score=0.5, cost_usd=0.02, latency_s=1.5, prompt_tokens=7)
    assert Exporter(journal).run() == 3
    found = events(journal)
    assert found["event_id"].to_list() == [f"d{i}" for i in range(10)]
    row = found.row(3, named=True)
    assert (row["score"], row["cost_usd"], row["latency_s"]) == (0.5, 0.02, 1.5)
    assert (row["prompt_tokens"], row["estimated_prompt_tokens"]) == (7, 3)
    assert (row["eligible"], row["propensity"], row["policy_version"]) == (["a", "b"], 0.25, "v1")
    assert found["score"].null_count() == 9
    assert journal.backlog() == 0


def test_a_late_outcome_is_exported_in_its_place_and_nothing_else_is_written(opened):
    journal = opened()
    record(journal, *(a_decision(f"d{i}") for i in range(9)))
    exporter = Exporter(journal)
    exporter.run()
    before = written(exporter)
    assert exporter.run() == 0
    tell(journal, "d1", score=1.0)
    assert journal.backlog() == 1
    assert exporter.run() == 1
    after = written(exporter)
    assert before.keys() == after.keys()
    assert sum(before[name] != after[name] for name in before) == 1
    assert events(journal)["score"].to_list() == [None, 1.0] + [None] * 7


def test_a_growing_range_keeps_its_file(opened):
    journal = opened()
    for i in range(6):
        record(journal, a_decision(f"d{i}"))
        Exporter(journal).run()
    assert len(written(Exporter(journal))) == 2
    assert events(journal).height == 6


def test_another_process_that_is_at_it_is_left_alone(opened):
    journal = opened()
    record(journal, a_decision("d1"))
    with (journal.directory / LEASE).open("w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        assert Exporter(journal).run() == 0
    assert Exporter(journal).run() == 1


def test_an_outcome_that_comes_while_a_range_is_written_is_written_next(opened, monkeypatch):
    journal = opened()
    record(journal, a_decision("d1"))
    import serve.journal.export as module

    publish = module.publish

    def told_meanwhile(table, uri):
        publish(table, uri)
        tell(journal, "d1", score=1.0)

    monkeypatch.setattr(module, "publish", told_meanwhile)
    Exporter(journal).run()
    monkeypatch.setattr(module, "publish", publish)
    assert events(journal)["score"].to_list() == [None]
    assert Exporter(journal).run() == 1
    assert events(journal)["score"].to_list() == [1.0]


def test_what_a_killed_export_left_goes_when_its_range_is_written(opened):
    journal = opened()
    record(journal, a_decision("d1"))
    exporter = Exporter(journal)
    exporter.run()
    (name,) = written(exporter)
    gone, live = (
        left_by(process, Path(exporter.folder, "feedback", name))
        for process in (gone_process(), this_process())
    )
    tell(journal, "d1", score=1.0)
    assert exporter.run() == 1
    assert not gone.exists()
    assert live.exists(), "another may still write it"


def test_a_failed_export_is_made_up_for(opened, caplog):
    journal = opened()
    record(journal, a_decision("d1"))
    folder = journal.directory / "export"
    folder.write_text("in the way")
    Exporter(journal).safely()
    assert "could not be exported" in caplog.text
    folder.unlink()
    Exporter(journal).run()
    assert events(journal).height == 1


def test_texts_and_vectors_are_kept_only_if_asked_for(opened):
    journal = opened()
    record(journal, a_decision("d1"))
    Exporter(journal).run()
    assert [path.name for path in Path(Exporter(journal).folder).iterdir()] == ["feedback"]


def test_prompts_are_read_once_each(opened):
    journal = opened()
    record(journal, *(a_decision(f"d{i}", prompt_id=f"p{i % 3}", prompt=f"text {i % 3}") for i in range(9)))
    Exporter(journal).run()
    table = read_table(PROMPTS, f"{Exporter(journal).folder}/prompts", keep=distinct_prompts)
    assert to_polars(table).sort("prompt_id")["prompt"].to_list() == ["text 0", "text 1", "text 2"]


def test_a_text_replaces_what_stands_for_it(opened):
    journal = opened()
    vector = np.ones(3, dtype=np.float32)
    record(
        journal,
        *(a_decision(f"d{i}", prompt_id="p0", embedding=vector) for i in range(4)),
        a_decision("d4", prompt_id="p0", prompt="text"),
        a_decision("d5", prompt_id="p1", embedding=vector),
    )
    Exporter(journal).run()
    table = read_table(PROMPTS, f"{Exporter(journal).folder}/prompts", keep=distinct_prompts)
    assert dict(
        zip(*to_polars(table).sort("prompt_id")["prompt_id", "prompt"].to_dict(as_series=False).values())
    ) == {
        "p0": "text",
        "p1": f"{UNLOGGED}p1",
    }


def test_vectors_are_an_embeddings_table_of_their_encoder(opened):
    journal = opened()
    other = EncoderIdentity("other", "cd" * 32, "torch-fp32", 2, 64)
    journal.describe_encoder("v1", ENCODER)
    journal.describe_encoder("v2", other)
    record(
        journal,
        a_decision("d1", prompt_id="p1", embedding=np.array([1, 2, 3], dtype=np.float32)),
        a_decision("d2", prompt_id="p2", embedding=np.array([4, 5], dtype=np.float32), policy_version="v2"),
    )
    Exporter(journal).run()
    found = {}
    for folder in Path(Exporter(journal).folder, "embeddings").iterdir():
        ids, vectors, identity = read_embeddings(folder)
        found[identity] = (list(ids), vectors.tolist())
    assert found == {ENCODER: (["p1"], [[1, 2, 3]]), other: (["p2"], [[4, 5]])}


def test_old_decisions_leave_the_journal_but_not_the_log(opened):
    journal = opened(retention_s=3600.0)
    record(journal, *(a_decision(f"d{i}", timestamp=LONG_AGO) for i in range(5)), a_decision("new"))
    exporter = Exporter(journal)
    exporter.run()
    exporter.run()
    # The second range is the current one, and stays whole.
    assert [journal.find(f"d{i}") is None for i in range(5)] == [True] * 4 + [False]
    assert tell(journal, "d0", score=1.0) == "unknown"
    record(journal, *(a_decision(f"e{i}") for i in range(4)))
    exporter.run()
    assert sorted(events(journal)["event_id"]) == sorted(
        [f"d{i}" for i in range(5)] + ["new"] + [f"e{i}" for i in range(4)]
    )


def test_more_rows_than_allowed_leave_earlier(opened):
    journal = opened(max_rows=6)
    record(journal, *(a_decision(f"d{i}") for i in range(18)))
    Exporter(journal).run()
    left = [i for i in range(18) if journal.find(f"d{i}") is not None]
    assert left == list(range(12, 18))
    assert events(journal).height == 18


def test_what_could_not_be_exported_never_leaves(opened):
    journal = opened(retention_s=3600.0, max_rows=1)
    record(journal, *(a_decision(f"d{i}", timestamp=LONG_AGO) for i in range(9)))
    (journal.directory / "export").write_text("in the way")
    Exporter(journal).safely()
    assert all(journal.find(f"d{i}") for i in range(9))


def test_journals_share_an_export_folder(opened, tmp_path):
    shared = str(tmp_path / "shared")
    for name in ("north", "south"):
        journal = opened(name, export_directory=shared)
        record(journal, a_decision(journal.ids.mint()))
        Exporter(journal).run()
    assert events(journal).height == 2


def test_the_background_task_exports_and_again_on_leaving(opened):
    journal = opened(export_interval_s=0.05)

    async def work():
        async with Exporter(journal).running():
            await journal.record(a_decision("d1"))
            while journal.backlog():
                await asyncio.sleep(0.02)
            await journal.record(a_decision("d2"))

    asyncio.run(asyncio.wait_for(work(), 20))
    assert events(journal).height == 2


def test_a_temporary_journal_exports_nothing_and_is_pruned():
    journal = Journal.open(DecisionLogSettings(rows_per_file=4, max_rows=4))
    record(journal, *(a_decision(f"d{i}") for i in range(10)))
    assert Exporter(journal).run() == 0
    assert journal.find("d0") is None
    assert journal.find("d9") is not None
    assert not (journal.directory / "export").exists()
    journal.close()


def test_replicas_without_a_directory_share_a_temporary_journal_that_is_not_exported():
    settings = DecisionLogSettings(rows_per_file=2).shared()
    one, two = Journal.open(settings), Journal.open(settings)
    try:
        record(one, *(a_decision(f"d{i}") for i in range(3)))
        assert two.find("d0") is not None
        assert Exporter(two).run() == 0
        assert not (two.directory / "export").exists()
    finally:
        one.close()
        two.close()
        shutil.rmtree(settings.directory)


def test_a_directory_is_shared_as_it_is():
    settings = DecisionLogSettings(directory="somewhere")
    assert settings.shared() is settings
