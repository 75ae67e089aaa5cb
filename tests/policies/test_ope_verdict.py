"""Cross-fitted outcome regression and the verdict on simulated logs."""

from __future__ import annotations

import numpy as np
import pytest

from policies import ope

W = np.array([0.0, 0.5, 1.0])
TAU_USD = 2e-3
K = 4
COST_USD = np.array([1e-4, 3e-4, 6e-4, 1e-3])


def simulate(n=3000, seed=0, allowed=K):
    """Prompts of two kinds; model 1 is good at kind 0, model 2 at kind 1, model 0 is cheap, model 3 dear and poor."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    kind = (x[:, 0] > 0).astype(int)
    chance = np.tile([0.3, 0.4, 0.4, 0.2], (n, 1))
    chance[np.arange(n), 1 + kind] = 0.8
    actions = rng.integers(allowed, size=n)
    scores = (rng.random(n) < chance[np.arange(n), actions]).astype(float)
    log = ope.LoggedOutcomes(actions, np.full(n, 1.0 / allowed), scores, COST_USD[actions])
    return x, kind, log


def fitted(x, log, **kwargs):
    return ope.cross_fit_outcomes(
        x, log.actions, log.scores, log.costs_usd, np.arange(len(log)), K, cost_cap_usd=TAU_USD, **kwargs
    )


def constant(n, model):
    return np.tile(np.eye(K)[model], (len(W), n, 1))


def by_kind(kind, swap=False):
    picks = 2 - kind if swap else 1 + kind
    return np.tile(np.eye(K)[picks], (len(W), 1, 1))


def judged(candidate, incumbent, n=3000, seed=0, allowed=K, segments=None, **limits):
    x, kind, log = simulate(n, seed, allowed)
    ours, theirs = (p(kind) if callable(p) else constant(n, p) for p in (candidate, incumbent))
    return ope.judge(
        log, ours, theirs, fitted(x, log), w_cost=W, tau_usd=TAU_USD,
        segments=kind if segments else None, thresholds=ope.VerdictThresholds(**limits),
    )  # fmt: skip


def test_a_clearly_better_candidate_ships():
    verdict = judged(by_kind, 3)
    assert verdict.decision is ope.Decision.SHIP
    # Truth: 0.6 of score at half weight on average, against the dear model's cost.
    assert verdict.overall.lower < 0.5 * 0.6 + 0.5 * (1e-3 - 4.5e-4) / TAU_USD < verdict.overall.upper


def test_the_reverse_does_not_ship():
    assert judged(3, by_kind).decision is ope.Decision.DO_NOT_SHIP


def test_identical_policies_do_not_ship():
    verdict = judged(1, 1)
    assert verdict.decision is ope.Decision.DO_NOT_SHIP
    assert "alike" in verdict.reasons[0]


def test_few_events_are_not_enough():
    verdict = judged(by_kind, 3, n=100)
    assert verdict.decision is ope.Decision.NOT_ENOUGH_DATA
    assert "independent events" in verdict.reasons[0]


def test_a_model_that_was_never_logged_is_not_judged():
    verdict = judged(3, 0, allowed=3)
    assert verdict.decision is ope.Decision.NOT_ENOUGH_DATA
    assert any("logged events" in reason for reason in verdict.reasons)
    assert any("mean weight of the candidate" in reason for reason in verdict.reasons)


def test_wrong_propensities_are_noticed():
    x, kind, log = simulate()
    lying = ope.LoggedOutcomes(log.actions, np.full(len(log), 0.5), log.scores, log.costs_usd)
    verdict = ope.judge(
        lying, by_kind(kind), constant(len(log), 3), fitted(x, lying), w_cost=W, tau_usd=TAU_USD
    )
    assert verdict.decision is ope.Decision.NOT_ENOUGH_DATA
    assert any("propensities are wrong" in reason for reason in verdict.reasons)


def test_a_loss_in_one_segment_blocks():
    # Better on the whole by far, but kind 1 is given the model that is poor at it instead of a good one.
    def candidate(kind):
        return np.tile(np.eye(K)[np.where(kind == 0, 1, 0)], (len(W), 1, 1))

    def incumbent(kind):
        return np.tile(np.eye(K)[np.where(kind == 0, 3, 2)], (len(W), 1, 1))

    verdict = judged(candidate, incumbent, n=6000, segments=True)
    assert verdict.overall.decision is ope.Decision.SHIP
    assert verdict.decision is ope.Decision.DO_NOT_SHIP
    assert any(reason.startswith(("task=1", "w_cost=0")) for reason in verdict.reasons)


def test_a_required_gain_can_be_too_much():
    assert judged(by_kind, 3, min_gain=0.6, worthwhile_gain=0.6).decision is ope.Decision.DO_NOT_SHIP


def test_every_slice_is_reported():
    verdict = judged(by_kind, 3, segments=True)
    assert [row.label for row in verdict.by_preference] == ["w_cost=0", "w_cost=0.5", "w_cost=1"]
    assert [row.label for row in verdict.by_segment] == ["task=0", "task=1"]
    assert sum(row.n_events for row in verdict.by_segment) == verdict.overall.n_events
    assert verdict.as_dict()["decision"] == "ship"


def test_bounds_agree_on_easy_cases_and_bernstein_is_widest():
    rows = {
        bound: judged(by_kind, 3, bound=bound).overall
        for bound in ("normal", "studentised_bootstrap", "empirical_bernstein")
    }
    assert rows["studentised_bootstrap"].lower == pytest.approx(rows["normal"].lower, abs=0.01)
    assert rows["empirical_bernstein"].lower < rows["normal"].lower


def test_candidates_no_better_rarely_ship():
    # At equal costs two policies that toss a coin between two equally good models are worth the same.
    shipped = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = 1000
        actions, scores = rng.integers(K, size=n), (rng.random(n) < 0.5).astype(float)
        log = ope.LoggedOutcomes(actions, np.full(n, 0.25), scores, np.full(n, 1e-4))
        picks = rng.integers(K, size=(2, n))
        candidate, incumbent = (np.tile(np.eye(K)[row], (len(W), 1, 1)) for row in picks)
        even = ope.OutcomePredictions(np.full((n, K), 0.5), np.full((n, K), 1e-4))
        verdict = ope.judge(log, candidate, incumbent, even, w_cost=W, tau_usd=TAU_USD)
        shipped += verdict.decision is ope.Decision.SHIP
    # At 2.5 % the chance of more than 9 of 100 is below 0.1 %.
    assert shipped <= 9


def test_paired_difference_is_exactly_zero_where_policies_agree():
    x, kind, log = simulate(500)
    ours, theirs = by_kind(kind)[0], by_kind(kind)[0].copy()
    theirs[:100] = np.eye(K)[3]
    difference = ope.paired_contributions(log, ours, theirs, fitted(x, log), 0.0, TAU_USD)
    assert (difference[100:] == 0.0).all()
    assert difference[:100].any()


def test_paired_difference_is_that_of_two_doubly_robust_estimates():
    x, kind, log = simulate(500)
    predictions = fitted(x, log)
    ours, theirs = by_kind(kind)[1], constant(500, 3)[1]
    view, r_hat = log.at_preference(0.5, TAU_USD), predictions.rewards(0.5, TAU_USD)
    expected = [ope.doubly_robust(view, policy, r_hat).contributions for policy in (ours, theirs)]
    paired = ope.paired_contributions(log, ours, theirs, predictions, 0.5, TAU_USD)
    np.testing.assert_allclose(paired, expected[0] - expected[1], atol=1e-12)


def test_malformed_policies_are_refused():
    x, kind, log = simulate(400)
    with pytest.raises(ValueError, match=r"candidate has shape .* expected \(3, 400, K\)"):
        ope.judge(log, by_kind(kind)[:2], by_kind(kind), fitted(x, log), w_cost=W, tau_usd=TAU_USD)


@pytest.mark.parametrize("change", [{"alpha": 0.7}, {"worthwhile_gain": -1.0}, {"tolerated_loss": -0.1}])
def test_impossible_thresholds_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ope.VerdictThresholds(**change)


def test_regression_finds_which_model_suits_which_prompt():
    x, kind, log = simulate(6000)
    predicted = fitted(x, log)
    right = predicted.scores[:, 1:3].argmax(axis=1) == kind
    assert right.mean() > 0.85
    np.testing.assert_allclose(predicted.costs_usd.mean(axis=0), COST_USD, rtol=0.05)


def test_predictions_do_not_see_their_own_group():
    x, _, log = simulate(400)
    groups = np.arange(400) // 4
    args = (x, log.actions)
    before = ope.cross_fit_outcomes(*args, log.scores, log.costs_usd, groups, K)
    changed = log.scores.copy()
    changed[:4] = 1.0 - changed[:4]
    after = ope.cross_fit_outcomes(*args, changed, log.costs_usd, groups, K)
    # The same scale serves all folds, so equality holds up to rounding.
    np.testing.assert_allclose(after.scores[:4], before.scores[:4], atol=1e-3)
    assert np.abs(after.scores[4:] - before.scores[4:]).max() > 1e-3


def test_a_model_that_was_never_logged_gets_a_shared_prediction():
    x, _, log = simulate(600, allowed=3)
    predicted = fitted(x, log)
    assert np.isfinite(predicted.scores).all()
    assert abs(predicted.scores[:, 3].mean() - log.scores.mean()) < 0.1


def test_capped_costs_stay_below_the_cap():
    x, _, log = simulate(600)
    predicted = ope.cross_fit_outcomes(
        x, log.actions, log.scores, log.costs_usd, np.arange(600), K, cost_cap_usd=2e-4
    )
    assert predicted.costs_usd.max() < 4e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.full(40, np.nan)}, "finite"),
        ({"groups": np.zeros(40)}, "1 groups"),
        ({"n_models": 2}, r"0\.\.1"),
        ({"groups": np.arange(39)}, "one row per event"),
    ],
)
def test_malformed_regression_input_is_refused(change, message):
    x, _, log = simulate(40)
    arguments = {
        "embeddings": x, "actions": log.actions, "scores": log.scores, "costs_usd": log.costs_usd,
        "groups": np.arange(40), "n_models": K,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ope.cross_fit_outcomes(**(arguments | change))
