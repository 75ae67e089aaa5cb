"""The verdict on a full table, its thresholds in the configuration, and the check of the estimators."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from pipeline.__main__ import GATE_EXIT_CODES
from pipeline.ope_check import check_estimators, check_lines
from pipeline.verdicts import table_verdicts, thresholds_of, verdict_lines
from policies import ope
from policies.constants import AlwaysPolicy
from policies.errors import InputError
from policies.preference import dial_grid
from tests.pipeline.evaluation_case import KindPolicy, bundle, config, outcomes, write_inputs

LOOSE = ("evaluate.verdict.tolerated_loss=1.0",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_inputs(folder, outcomes(4, 9))
    return folder


@pytest.fixture(scope="module")
def complete():
    return {
        "train": outcomes(400, 0),
        "test": outcomes(900, 2),
        "ood": outcomes(400, 3, ("new code", "new prose")),
    }


def judged(folder, complete, policy, *overrides):
    settings = config(folder, *overrides)
    made = bundle(policy, complete["train"])
    return table_verdicts(made, complete, settings, complete["train"].tau_usd())


def test_configured_thresholds_are_those_of_the_verdict(folder):
    settings = config(folder).evaluate.verdict
    assert thresholds_of(settings) == ope.VerdictThresholds()
    assert settings.model_dump() == asdict(ope.VerdictThresholds())


def test_every_decision_has_an_exit_code():
    assert set(GATE_EXIT_CODES) == {str(decision) for decision in ope.Decision}


def test_difference_is_the_mean_of_the_paired_differences(folder, complete):
    verdict = judged(folder, complete, KindPolicy(), "evaluate.incumbent=always:dear")["splits"]["test"]
    data, tau_usd = complete["test"], complete["train"].tau_usd()
    gains = []
    for w in dial_grid():
        reward = (1 - w) * data.scores - w * np.minimum(data.costs_usd / tau_usd, 1)
        picks = (
            KindPolicy()
            .action_probabilities(data.embeddings, np.tile([1 - w, w], (len(data), 1)))
            .argmax(axis=1)
        )
        gains.append(reward[np.arange(len(data)), picks] - reward[:, 0])
    table = np.array(gains)
    assert verdict["overall"]["difference"] == pytest.approx(table.mean())
    error = table.mean(axis=0).std(ddof=1) / np.sqrt(len(data))
    assert verdict["overall"]["standard_error"] == pytest.approx(error)
    for row, gain in zip(verdict["by_preference"], table):
        assert row["difference"] == pytest.approx(gain.mean())
    assert verdict["decision"] == "ship"


@pytest.mark.parametrize(
    ("policy", "incumbent", "overrides", "decision"),
    [
        (KindPolicy(), "best_single", LOOSE, "ship"),
        (AlwaysPolicy(KindPolicy().models, "dear"), "best_single", (), "do not ship"),
        (KindPolicy(), "best_single", ("evaluate.verdict.min_events=901",), "not enough data"),
        (AlwaysPolicy(KindPolicy().models, "dear"), "always:dear", (), "do not ship"),
    ],
)
def test_decisions(folder, complete, policy, incumbent, overrides, decision):
    found = judged(folder, complete, policy, f"evaluate.incumbent={incumbent}", *overrides)
    assert found["splits"]["test"]["decision"] == decision


def test_held_out_tasks_are_judged_apart(folder, complete):
    found = judged(folder, complete, KindPolicy())["splits"]
    assert [row["label"] for row in found["ood"]["by_segment"]] == ["task=new code", "task=new prose"]
    assert found["ood"]["overall"]["n_events"] == 400


def test_a_full_table_has_no_logging_policy(folder, complete):
    with pytest.raises(InputError, match=r"evaluate\.incumbent=logged: a full table has no logging policy"):
        judged(folder, complete, KindPolicy(), "evaluate.incumbent=logged")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.verdict.alpha=0.7", r"evaluate\.verdict\.alpha=0\.7"),
        ("evaluate.verdict.worthwhile_gain=-0.1", "allowed: at least min_gain"),
        ("evaluate.verdict.min_ess=3", "allowed below evaluate.verdict: alpha, min_gain"),
    ],
)
def test_impossible_thresholds_are_refused(folder, override, message):
    with pytest.raises(InputError, match=message):
        config(folder, override)


def test_lines_end_in_the_decision_and_its_reasons(folder, complete):
    found = judged(folder, complete, KindPolicy(), *LOOSE)
    lines = verdict_lines(found["splits"]["test"], found["incumbent"], "prompts")
    at = next(i for i, line in enumerate(lines) if line.startswith("verdict against best single model"))
    assert lines[at].endswith("SHIP")
    assert all(line.startswith("  - ") for line in lines[at + 1 :])
    assert any("task=code" in line for line in lines[:at])


def test_estimators_come_near_the_known_truth(folder, complete):
    settings = config(folder, "evaluate.ope_check=5")
    made = bundle(KindPolicy(), complete["train"])
    check = check_estimators(made, complete["test"], settings, complete["train"].tau_usd())
    assert check is not None
    assert check["n_logs"] == 5
    assert check["estimators"]["DR"]["relative_error"] < 0.15
    assert check["estimators"]["DR"]["coverage_95"] >= 0.6
    assert any(line.strip().startswith("Switch-DR") for line in check_lines(check))


def test_no_check_unless_asked_for(folder, complete):
    made = bundle(KindPolicy(), complete["train"])
    assert check_estimators(made, complete["test"], config(folder), 1.0) is None
