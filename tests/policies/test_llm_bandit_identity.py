"""Stage 1 of LLM Bandit: what identity vectors learn, and from what."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from policies.llm_bandit.calibration import calibrated_identity_vectors, platt
from policies.llm_bandit.identity_vectors import logit_std, predict
from policies.llm_bandit.irt_network import IdentityPosterior
from policies.llm_bandit.irt_training import train_identity_vectors
from policies.llm_bandit.observations import Comparisons, Observations, binarised
from tests.policies.llm_bandit_case import SETTINGS, TAU_USD, names, prices, world


def trained(observations, settings=SETTINGS, **kwargs):
    k = observations.scores.shape[1]
    return train_identity_vectors(observations, names(k), prices(k), TAU_USD, settings, **kwargs)


def predicted(fitted, rows):
    network, arms = fitted
    inputs = network.inputs(rows.embeddings, rows.prompt_tokens)
    return predict(network, arms, inputs, rows.prompt_tokens)


@pytest.fixture(scope="module")
def fitted():
    return trained(world()[0])


def test_scores_of_new_prompts_are_predicted(fitted):
    rows, p = world(seed=1)
    error = np.abs(predicted(fitted, rows).scores - p).mean()
    assert error < 0.5 * np.abs(p.mean(axis=0) - p).mean()


def test_expected_costs_agree_with_those_paid(fitted):
    rows, _ = world(seed=1)
    expected = predicted(fitted, rows).cost_terms.mean(axis=0)
    np.testing.assert_allclose(expected, (rows.costs_usd / TAU_USD).mean(axis=0), rtol=0.05)


def test_models_that_answer_alike_have_vectors_alike(fitted):
    _, arms = fitted
    network, _ = fitted
    inputs = network.inputs(world(seed=2)[0].embeddings, np.full(900, 50.0))
    ability = network.loadings(inputs).score @ arms.identity.T
    same = np.corrcoef(ability.T)
    assert min(same[0, 2], same[1, 3]) > 0.8 > max(same[0, 1], same[2, 3])


def test_one_outcome_a_prompt_is_enough_to_tell_the_sides_apart():
    rows, p = world(n=3000)
    keep = np.eye(6, dtype=bool)[np.random.default_rng(0).integers(0, 6, len(rows))]
    log = replace(
        rows, scores=np.where(keep, rows.scores, np.nan), costs_usd=np.where(keep, rows.costs_usd, np.nan)
    )
    new, p = world(seed=1)
    scores = predicted(trained(log), new).scores
    assert ((scores[:, 0] > scores[:, 1]) == (p[:, 0] > p[:, 1])).mean() > 0.9


def pairs(rows, wins):
    n = len(rows)
    rng = np.random.default_rng(3)
    first = rng.integers(0, 6, n)
    second = (first + rng.integers(1, 6, n)) % 6
    return Comparisons(rows.embeddings, rows.prompt_tokens, first, second, wins(np.arange(n), first, second))


def test_comparisons_alone_order_the_models():
    rows, p = world(n=3000)
    wins = pairs(rows, lambda i, a, b: (p[i, a] > p[i, b]).astype(float))
    nothing = rows.rows(np.zeros(len(rows), bool))
    new, truth = world(seed=1)
    logits = predicted(trained(nothing, comparisons=wins), new).logits
    assert ((logits[:, 0] > logits[:, 5]) == (truth[:, 0] > truth[:, 5])).mean() > 0.9


def test_only_ties_leave_the_models_equal():
    rows, _ = world()
    nothing = rows.rows(np.zeros(len(rows), bool))
    ties = pairs(rows, lambda i, a, b: np.full(len(i), 0.5))
    decided = pairs(rows, lambda i, a, b: (a > b).astype(float))
    spread = [
        predicted(trained(nothing, comparisons=c), rows).logits.std(axis=1).mean() for c in (ties, decided)
    ]
    assert spread[0] < 0.3 * spread[1]


def test_nothing_observed_is_an_error():
    rows, _ = world(n=50)
    with pytest.raises(InputError, match="neither a score nor a comparison"):
        trained(replace(rows, scores=np.full_like(rows.scores, np.nan)))


def test_a_model_seen_less_is_more_uncertain():
    rows, _ = world()
    scores = rows.scores.copy()
    scores[20:, 3] = np.nan
    network, arms = trained(replace(rows, scores=scores), replace(SETTINGS, length_weight=0.0))
    inputs = network.inputs(rows.embeddings, rows.prompt_tokens)
    std = logit_std(network, network.loadings(inputs), arms).mean(axis=0)
    assert std[3] > 2.0 * np.delete(std, 3).max()


def test_divergence_is_that_of_torch():
    torch.manual_seed(0)
    posterior = IdentityPosterior(5, 3)
    q = torch.distributions.Normal(posterior.mean, posterior.log_std.exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(posterior.divergence(), expected)


def test_the_prior_weighs_less_with_more_observations():
    few, many = (
        np.linalg.norm(trained(world(n=n)[0], replace(SETTINGS, kl_weight=30.0))[1].identity)
        for n in (60, 3000)
    )
    assert few < many


def test_training_repeats():
    rows, _ = world(n=200)
    first, second = (trained(rows, replace(SETTINGS, epochs=2), seed=4)[1].identity for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_out_of_fold_predictions_do_not_know_their_rows():
    """Scores are coin flips: only a predictor that saw a row could predict it."""
    rng = np.random.default_rng(0)
    rows, _ = world(n=300)
    noise = replace(rows, scores=(rng.random(rows.scores.shape) < 0.5).astype(float))
    model = calibrated_identity_vectors(
        noise, names(6), prices(6), TAU_USD, replace(SETTINGS, epochs=60), folds=3
    )
    correlation = np.corrcoef(model.scores.ravel(), noise.scores.ravel())[0, 1]
    seen = predicted((model.network, model.arms), noise).scores
    assert abs(correlation) < 0.1 < np.corrcoef(seen.ravel(), noise.scores.ravel())[0, 1]


def test_folds_keep_a_prompt_together():
    rows, _ = world(n=40)
    doubled = Observations(
        *(np.concatenate([getattr(rows, f)] * 2) for f in Observations.__dataclass_fields__)
    )
    fold = doubled.folds(3)
    np.testing.assert_array_equal(fold[:40], fold[40:])
    assert np.bincount(fold).min() >= 20


def test_too_few_prompts_for_the_folds_are_named():
    rows, _ = world(n=2)
    with pytest.raises(InputError, match="2 distinct prompts"):
        calibrated_identity_vectors(rows, names(6), prices(6), TAU_USD, SETTINGS, folds=3)


def test_platt_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits + 0.3)))).astype(float)
    assert platt(logits, y) == pytest.approx((0.5, 0.3), abs=0.06)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_binary_scores_keep_the_mean_as_far_as_a_threshold_can(values):
    scores = np.array([values])
    binary = binarised(scores)
    assert set(np.unique(binary)) <= {0.0, 1.0}
    alternatives = [(scores >= level).mean() for level in np.unique(scores)]
    error = np.abs(np.array(alternatives) - scores.mean())
    assert np.isin(scores, (0.0, 1.0)).all() or abs(binary.mean() - scores.mean()) == pytest.approx(
        error.min()
    )
