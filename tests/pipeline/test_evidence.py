"""What stands behind the report: calibration, losses and learning-health checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline import evaluate, health, report
from pipeline.baselines import fit_baseline
from pipeline.calibration import calibration
from pipeline.regret import EXCERPT_CHARS, excerpt, losses
from pipeline.reporting.evidence import calibration_chart
from pipeline.routers import POLICY, Router, dial_probabilities
from pipeline.scoring import Yardstick
from policies.baselines.value import ValuePolicy
from policies.datasets import LoggedFeedback
from policies.preference import dial_grid, reward
from tests.pipeline.evaluation_case import POOL, KindPolicy, bundle, config, outcomes, write_inputs

TRAINING, TEST = outcomes(300, 0), outcomes(120, 2)
YARDSTICK = Yardstick.fit(TRAINING, dial_grid(), TRAINING.tau_usd(), n_resamples=0, seed=0)


def decided(policy, data=TEST):
    return dial_probabilities(Router(POLICY, "policy", policy, "policy"), data, YARDSTICK.w_cost)


def lost(data=TEST, **settings):
    return losses(data, decided(KindPolicy(), data), YARDSTICK, **{"w_cost": 0.2, "n_prompts": 5, **settings})


def log(propensities, scores=None, actions=None):
    n = len(propensities)
    return LoggedFeedback(
        event_ids=np.array([f"e{i}" for i in range(n)]),
        prompt_ids=np.array([f"p{i}" for i in range(n)]),
        tasks=np.array([""] * n),
        pool=POOL,
        embeddings=np.zeros((n, 2), dtype=np.float32),
        prompt_tokens=np.ones(n),
        preferences=np.full((n, 2), 0.5, dtype=np.float32),
        eligible=np.ones((n, 3), dtype=bool),
        actions=np.arange(n) % 3 if actions is None else np.asarray(actions),
        propensities=np.asarray(propensities, dtype=np.float64),
        scores=np.asarray(np.arange(n) % 2 if scores is None else scores, dtype=np.float64),
        costs_usd=np.ones(n),
        completion_tokens=np.full(n, np.nan),
    )


def states(training=TRAINING, events=None, **policy):
    figures = {
        "action_shares": [[0.4, 0.3, 0.3]] * 21,
        "dead_dial_share": 0.1,
        "max_cost_rise": 0.0,
        **policy,
    }
    found = health.checks(training, events, figures, propensity_floor=0.01)
    return {check["name"]: check["state"] for check in found}


def test_losses_are_differences_of_rewards_against_the_best_single_model():
    found = lost(w_cost=0.21)
    assert found["w_cost"] == pytest.approx(0.2)
    row = found["prompts"][0]
    i = TEST.prompt_ids.tolist().index(row["prompt_id"])
    r = reward(TEST.scores, TEST.costs_usd, np.array([[0.8, 0.2]] * len(TEST)), YARDSTICK.tau_usd)
    called, better = (POOL.models.index(row[name]) for name in ("called", "better"))
    assert row["regret"] == pytest.approx(r[i, better] - r[i, called])
    assert row["called_score"] == TEST.scores[i, called]
    assert row["better_cost_usd"] == TEST.costs_usd[i, better]


def test_prompts_come_with_the_largest_loss_first_and_only_losses():
    regrets = [row["regret"] for row in lost(n_prompts=500)["prompts"]]
    assert regrets == sorted(regrets, reverse=True)
    assert len(regrets) == lost()["n_worse"]
    assert min(regrets) > 0.0


def test_losses_do_not_depend_on_the_order_of_prompts():
    shuffled = TEST.rows(np.random.default_rng(3).permutation(len(TEST)))
    assert lost(shuffled)["prompts"] == lost()["prompts"]


def test_task_gains_average_to_the_gain():
    found = lost()
    total = sum(task["n_prompts"] * task["mean_gain"] for task in found["tasks"].values())
    assert total / len(TEST) == pytest.approx(found["mean_gain"])
    assert found["n_better"] + found["n_equal"] + found["n_worse"] == len(TEST)


def test_excerpts_are_short_and_on_one_line():
    assert excerpt("a\n\n b\tc") == "a b c"
    assert len(excerpt("word " * 100)) <= EXCERPT_CHARS


def test_texts_are_left_out_on_request(tmp_path):
    write_inputs(tmp_path, outcomes(4, 9))
    data = {"train": TRAINING, "test": TEST}
    texts = {str(p): f"<b>secret</b> {p}" for p in TEST.prompt_ids}
    for shown in (texts, None):
        metrics = evaluate.measure(
            bundle(KindPolicy(), TRAINING), data, data, config(tmp_path, "evaluate.baselines=[]"), texts=shown
        )
        page = report.html(metrics, {})
        assert ("secret" in str(metrics)) == (shown is not None)
        assert ("&lt;b&gt;secret&lt;/b&gt;" in page) == (shown is not None)
        assert "<b>secret" not in page


def test_a_policy_without_predictions_has_no_calibration():
    assert calibration(bundle(KindPolicy(), TRAINING), TEST, decided(KindPolicy())) is None


def test_calibration_compares_predictions_with_what_was_observed():
    policy = fit_baseline("ridge", TRAINING, TRAINING.tau_usd())
    assert isinstance(policy, ValuePolicy)
    found = calibration(bundle(policy, TRAINING), TEST, decided(policy))
    assert found is not None
    scores, _ = policy.predict(TEST.embeddings, TEST.prompt_tokens)
    assert found["models"]["dear"]["score_predicted"] == pytest.approx(scores[:, 0].mean())
    assert found["models"]["dear"]["score_observed"] == pytest.approx(TEST.scores[:, 0].mean())
    capped = np.minimum(TEST.costs_usd[:, 0], TRAINING.tau_usd()).mean()
    assert found["models"]["dear"]["capped_cost_observed_usd"] == pytest.approx(capped)
    assert sum(found["scores"]["all"]["count"]) == TEST.scores.size
    assert sum(found["scores"]["called"]["count"]) == pytest.approx(len(TEST))


def test_chart_of_predictions_leaves_out_bins_of_a_few_pairs():
    bins = {"predicted": [0.05, 0.5], "observed": [1.0, 0.5], "count": [1.0, 999.0]}
    scores = {"all": bins, "called": bins}
    metrics = {"splits": {"test": {}}, "calibration": {"test": {"scores": scores}}}
    chart = calibration_chart(metrics)
    assert chart is not None
    drawn = chart.to_dict()
    points = [row for rows in drawn["datasets"].values() for row in rows if "share" in row]
    assert [(row["predicted"], row["share"]) for row in points] == [(0.5, 0.999)] * 2


def test_healthy_learning_raises_no_alarm():
    assert set(states().values()) <= {"ok", "look"}
    assert set(states(events=log(np.full(90, 1 / 3))).values()) == {"ok"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("one_arm", {"action_shares": [[0.97, 0.02, 0.01]] * 21}),
        ("coverage", {"action_shares": [[1.0, 0.0, 0.0]] * 21}),
        ("prompt_blind", {"action_shares": [[1.0, 0.0, 0.0]] * 21}),
        ("dead_dial", {"dead_dial_share": 1.0}),
        ("cost_rises", {"max_cost_rise": 0.05}),
    ],
)
def test_a_policy_that_went_wrong_is_seen(name, changed):
    assert states()[name] == "ok"
    assert states(**changed)[name] != "ok"


def test_rewards_stuck_at_one_value_raise_the_alarm():
    assert states(replace(TRAINING, scores=np.ones_like(TRAINING.scores)))["rewards_stuck"] == "alarm"
    assert states(events=log(np.full(50, 0.3), scores=np.zeros(50)))["rewards_stuck"] == "alarm"


def test_propensities_below_the_floor_and_near_certain_ones_raise_the_alarm():
    assert states(events=log(np.full(50, 0.001)))["propensity_floor"] == "alarm"
    assert states(events=log(np.full(50, 1.0)))["propensities_collapsed"] == "alarm"


def test_models_that_the_log_never_calls_are_named():
    found = health.checks(
        TRAINING,
        log(np.full(60, 0.5), actions=np.arange(60) % 2),
        {"action_shares": [[0.4, 0.3, 0.3]], "dead_dial_share": None, "max_cost_rise": 0.0},
        propensity_floor=0.01,
    )
    check = next(c for c in found if c["name"] == "log_coverage")
    assert (check["state"], check["value"]) == ("look", pytest.approx(1 / 3))
    assert "cheap" in check["text"]
