"""Baselines in the comparison and as the run's own policy."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from pipeline import evaluate, simulate, train
from pipeline.baselines import LABELS, baseline_routers, fit_baseline, uniform_log
from pipeline.compose import load_config
from pipeline.config.baselines import FULL_TABLE_BASELINES, LOG_BASELINES
from policies.errors import InputError
from policies.registry import policy_class
from tests.pipeline.evaluation_case import KindPolicy, bundle, config, outcomes, prepared_run, write_inputs

NAMES = FULL_TABLE_BASELINES + LOG_BASELINES


def test_every_baseline_learns_what_to_do_with_code():
    training, test = outcomes(600, 0), outcomes(300, 1)
    for router in baseline_routers(NAMES, training, None, training.tau_usd(), seed=0):
        p = router.policy.action_probabilities(test.embeddings, np.tile([0.9, 0.1], (300, 1)))
        code = test.embeddings[:, 0] > 0
        assert (p[code].argmax(axis=1) == 1).mean() > 0.9, router.name
        assert (p[~code].argmax(axis=1) == 1).mean() < 0.1, router.name


def test_the_simulated_log_reveals_one_true_outcome_a_prompt():
    data = outcomes(500, 0)
    log = uniform_log(data, 3)
    row_of = {p: i for i, p in enumerate(data.prompt_ids)}
    rows = [row_of[p] for p in log.prompt_ids]
    assert sorted(rows) == list(range(500))
    np.testing.assert_array_equal(log.scores, data.scores[rows, log.actions])
    np.testing.assert_array_equal(log.costs_usd, data.costs_usd[rows, log.actions])
    np.testing.assert_array_equal(log.embeddings, data.embeddings[rows])
    assert np.bincount(log.actions).min() > 120
    np.testing.assert_allclose(log.propensities, 1 / 3)


def test_a_given_log_is_what_log_baselines_learn_from():
    training = outcomes(400, 0)
    log = uniform_log(training, 0)
    log.scores[:] = (log.actions == 0).astype(float)
    (router,) = baseline_routers(("direct",), training, log, training.tau_usd(), seed=0)
    p = router.policy.action_probabilities(training.embeddings, np.tile([1.0, 0.0], (400, 1)))
    assert (p.argmax(axis=1) == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_configured_defaults_are_those_of_fit(name):
    settings = load_config([f"policy={name}"]).policy.model_dump(exclude={"name"})
    parameters = inspect.signature(policy_class(name).fit).parameters  # type: ignore[attr-defined]
    defaults = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert settings == defaults


def test_every_name_has_a_label_and_a_trainer():
    assert set(LABELS) == set(NAMES) <= set(train.TRAINERS)


@pytest.mark.parametrize("value", ["all", "[all]"])
def test_all_names_every_baseline(value):
    assert load_config([f"evaluate.baselines={value}"]).evaluate.baselines == NAMES


def test_an_unknown_baseline_is_refused_with_what_is_allowed():
    with pytest.raises(InputError, match=r"evaluate.baselines.*'knnn'[\s\S]*'knn'"):
        load_config(["evaluate.baselines=[knnn]"])


def test_a_log_is_not_enough_for_a_full_table_baseline():
    with pytest.raises(InputError, match=r"policy=knn: learns from every model's outcomes.*linucb"):
        fit_baseline("knn", uniform_log(outcomes(50, 0), 0), 1e-2)


def test_baselines_are_rows_of_the_comparison(tmp_path):
    write_inputs(tmp_path, outcomes(4, 9))
    data = {"train": outcomes(300, 0), "validation": outcomes(80, 1), "test": outcomes(120, 2)}
    settings = config(tmp_path, "evaluate.baselines=[ridge,linucb]")
    rows = evaluate.measure(bundle(KindPolicy(), data["train"]), data, data, settings)["splits"]["test"][
        "routers"
    ]
    assert {name for name, row in rows.items() if row["role"] == "baseline"} == {"ridge", "linucb"}
    assert rows["linucb"]["label"].endswith("(log)")
    assert rows["ridge"]["gap_closed"] > 0.3
    assert rows["ridge"]["intervals"]["mean_reward"][0] < rows["ridge"]["mean_reward"]


@pytest.mark.parametrize("name", ["ridge", "linucb"])
def test_a_baseline_is_trained_and_evaluated_as_the_policy(name, tmp_path, ray_session):
    settings = prepared_run(tmp_path, outcomes(600, 0), f"policy={name}", "evaluate.baselines=[ridge]")
    router = train.run(settings)
    assert router.policy.kind == name
    assert -1.0 < router.notes["validation_reward"] < 1.0
    rows = evaluate.run(settings)["splits"]["test"]["routers"]
    assert rows["policy"]["gap_closed"] > 0.2
    assert ("ridge" in rows) == (name != "ridge")


def test_a_log_baseline_is_trained_from_the_runs_log(tmp_path, ray_session):
    settings = prepared_run(tmp_path, outcomes(600, 0), "policy=direct", "train.mode=logged")
    simulate.run(settings)
    assert train.run(settings).notes["mode"] == "logged"
