from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import InputError
from serve.journal.journal import Journal
from serve.journal.records import Outcome
from serve.settings.log import DecisionLogSettings
from tests.serve.journal.cases import a_decision


@pytest.fixture
def journal(tmp_path):
    opened = Journal.open(DecisionLogSettings(directory=str(tmp_path)))
    yield opened
    opened.close()


def record(journal, *decisions):
    asyncio.run(journal.record_many(decisions))


def tell(journal, decision_id, **fields):
    return asyncio.run(journal.record_outcome(decision_id, Outcome(**fields), "feedback"))


def test_a_decision_is_found_as_it_was_recorded(journal):
    whole = a_decision(
        "d1",
        key_id="k",
        session_id="s",
        retry_of="d0",
        metadata={"team": "é", "n": 1},
        embedding=np.arange(3, dtype=np.float32),
        prompt="why?",
    )
    record(journal, whole)
    found, outcome = journal.find("d1")
    np.testing.assert_array_equal(found.embedding, whole.embedding)
    assert dataclasses.replace(found, embedding=None) == dataclasses.replace(whole, embedding=None)
    assert outcome == Outcome()


def test_what_is_not_there_is_not_found(journal):
    assert journal.find("d1") is None
    assert tell(journal, "d1", score=1.0) == "unknown"


def test_a_reopened_journal_holds_everything(tmp_path):
    settings = DecisionLogSettings(directory=str(tmp_path))
    first = Journal.open(settings)
    record(first, a_decision("d1"))
    minted = first.ids.mint()
    first.close()
    second = Journal.open(settings)
    assert second.find("d1") is not None
    assert second.ids.own(minted)
    second.close()


def test_a_decision_recorded_again_changes_nothing(journal):
    record(journal, a_decision("d1"))
    tell(journal, "d1", score=0.5)
    record(journal, a_decision("d1", model="b"))
    found, outcome = journal.find("d1")
    assert (found.model, outcome.score, journal.traffic(60).decisions) == ("a", 0.5, 1)


def test_partial_outcomes_add_up(journal):
    record(journal, a_decision("d1"))
    assert tell(journal, "d1", cost_usd=0.02, latency_s=1.5) == "recorded"
    assert tell(journal, "d1", score=0.0, cost_usd=0.02) == "recorded"
    assert journal.find("d1")[1] == Outcome(score=0.0, cost_usd=0.02, latency_s=1.5)


def test_a_repeated_outcome_is_a_duplicate(journal):
    record(journal, a_decision("d1"))
    tell(journal, "d1", score=0.0)
    assert tell(journal, "d1", score=0.0) == "duplicate"
    assert journal.traffic(60).feedback == 1


def test_a_contradicting_outcome_changes_nothing(journal):
    record(journal, a_decision("d1"))
    tell(journal, "d1", score=1.0)
    assert tell(journal, "d1", score=0.0, cost_usd=0.5) == "conflict"
    assert journal.find("d1")[1] == Outcome(score=1.0)


def test_a_decision_and_its_outcome_may_share_a_commit(journal):
    async def both():
        return await asyncio.gather(
            journal.record(a_decision("d1")), journal.record_outcome("d1", Outcome(score=1.0), "feedback")
        )

    assert asyncio.run(both())[1] == "recorded"


def test_the_last_turn_is_the_latest_that_did_not_fail(journal):
    turns = [a_decision(f"d{i}", session_id="s", model=m, prompt_tokens=i) for i, m in enumerate("aba")]
    for turn in turns:
        record(journal, turn)
    tell(journal, "d2", error="timeout")
    last = journal.last_turn("s")
    assert (last.model, last.prompt_tokens, last.timestamp) == ("b", 1, turns[1].timestamp)
    assert journal.last_turn("another") is None


def test_traffic_adds_up(journal):
    record(
        journal,
        a_decision("d1"),
        a_decision("d2", model="b", expected_cost_usd=0.02, release="canary", policy_version="v2"),
        a_decision("d3"),
        a_decision("old", timestamp=datetime.now(UTC) - timedelta(hours=2)),
    )
    tell(journal, "d1", cost_usd=0.03, score=0.5)
    tell(journal, "d2", score=1.0)
    tell(journal, "d3", error="timeout")
    found = journal.traffic(600)
    assert (found.decisions, found.errors, found.feedback) == (3, 1, 2)
    assert found.by_model == {"a": 2, "b": 1}
    assert found.by_version == {"v1": 2, "v2": 1}
    assert found.by_release == {"champion": 2, "canary": 1}
    assert found.expected_cost_usd == pytest.approx(0.03)
    assert found.cost_usd == pytest.approx(0.03 + 0.02)
    assert found.always_best_cost_usd == pytest.approx(0.08)
    assert found.savings_usd == pytest.approx(0.03)
    assert found.mean_score == pytest.approx(0.75)
    assert found.feedback_rate == pytest.approx(2 / 3)


@pytest.mark.parametrize("order", [("cost_usd", "error"), ("error", "cost_usd")])
def test_a_failed_call_costs_what_was_billed_in_either_order(journal, order):
    record(journal, a_decision("d1"))
    for name in order:
        tell(journal, "d1", **{name: 0.002 if name == "cost_usd" else "cut"})
    found = journal.traffic(600)
    assert found.cost_usd == pytest.approx(0.002)
    assert found.always_best_cost_usd == pytest.approx(0.0)


@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from([("score", 0.5), ("score", 0.6), ("cost_usd", 1.0), ("latency_s", 2.0)]), max_size=8
    )
)
def test_the_first_value_of_a_field_stays(tells):
    journal = Journal.open(DecisionLogSettings())
    try:
        record(journal, a_decision("d1"))
        first = {}
        for name, value in tells:
            status = tell(journal, "d1", **{name: value})
            assert status == (
                "recorded" if name not in first else "duplicate" if first[name] == value else "conflict"
            )
            first.setdefault(name, value)
        assert journal.find("d1")[1] == Outcome(**first)
    finally:
        journal.close()


def test_a_temporary_journal_leaves_nothing_behind():
    journal = Journal.open(DecisionLogSettings())
    record(journal, a_decision("d1"))
    directory = journal.directory
    journal.close()
    assert not directory.exists()


def test_two_journals_share_a_file(tmp_path):
    settings = DecisionLogSettings(directory=str(tmp_path))
    first, second = Journal.open(settings), Journal.open(settings)
    record(first, a_decision("d1"))
    assert tell(second, "d1", score=1.0) == "recorded"
    assert first.find("d1")[1].score == 1.0
    first.close(), second.close()


def test_an_id_is_known_by_its_mac(journal, tmp_path_factory):
    minted = journal.ids.mint()
    assert journal.ids.own(minted)
    assert not journal.ids.issued(minted[:-1] + ("0" if minted[-1] != "0" else "1"))
    assert not journal.ids.issued("é" * len(minted))
    assert not journal.ids.issued("")
    other = Journal.open(DecisionLogSettings(directory=str(tmp_path_factory.mktemp("other"))))
    assert not other.ids.issued(minted)
    other.close()


def test_nodes_with_one_key_know_each_others_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("TRADEWIND_DECISION_ID_KEY", "secret")
    nodes = [Journal.open(DecisionLogSettings(directory=str(tmp_path / name))) for name in "ab"]
    minted = nodes[0].ids.mint()
    assert nodes[1].ids.issued(minted)
    assert not nodes[1].ids.own(minted)
    for node in nodes:
        node.close()


def test_a_closed_journal_refuses(journal):
    journal.close()
    with pytest.raises(RuntimeError, match="closed"):
        record(journal, a_decision("d1"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"log\.directory="):
        Journal.open(DecisionLogSettings(directory=str(tmp_path / "file" / "log")))


def test_the_key_file_is_the_owners_alone(journal):
    assert (journal.directory / "decision-ids.key").stat().st_mode & 0o077 == 0


def test_a_decision_that_cannot_be_stored_fails_alone_with_its_error(journal):
    with pytest.raises(TypeError):
        record(journal, a_decision("bad", metadata={"x": object()}))
    record(journal, a_decision("d1"))
    assert journal.find("d1") is not None
