"""Cold start: which prompts are asked, and what the new model's vector says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from policies.llm_bandit.identity_vectors import logit_std, predict
from policies.llm_bandit.irt_training import train_identity_vectors
from policies.llm_bandit.onboarding import (
    VectorPrior,
    discrimination,
    fit_new_arm,
    stratified_selection,
)
from policies.pool import ModelSpec
from tests.policies.llm_bandit_case import SETTINGS, TAU_USD, names, prices, world

KNOWN = 6
SPEC = ModelSpec("new", 1.0, 4.0)
OUTPUT_PRICES = np.full(KNOWN, 4e-6)


@pytest.fixture(scope="module")
def trained():
    rows, _ = world(n_models=KNOWN)
    return train_identity_vectors(rows, names(KNOWN), prices(KNOWN), TAU_USD, SETTINGS)


def answers(n, column=3, seed=8):
    """A new model that answers as a known one does."""
    rows, p = world(n=n, n_models=KNOWN, seed=seed)
    return rows.columns([column]), p[:, column]


def fitted(trained, observations, **kwargs):
    network, arms = trained
    return fit_new_arm(network, arms, observations, SPEC, OUTPUT_PRICES, **kwargs)


def errors(trained, arm):
    """Mean absolute error of predicted success on new prompts."""
    network, _ = trained
    rows, p = answers(1000, seed=9)
    inputs = network.inputs(rows.embeddings, rows.prompt_tokens)
    return np.abs(predict(network, arm, inputs, rows.prompt_tokens).scores[:, 0] - p).mean()


def test_fifty_answers_place_a_new_model(trained):
    arm = fitted(trained, answers(50)[0])
    known = trained[1].take([3])
    assert errors(trained, arm) < errors(trained, known) + 0.06


def doubt(trained, arm):
    """Mean deviation of the predicted logit on new prompts."""
    network, _ = trained
    rows, _ = answers(300, seed=9)
    loadings = network.loadings(network.inputs(rows.embeddings, rows.prompt_tokens))
    return logit_std(network, loadings, arm).mean()


def test_more_answers_leave_less_doubt(trained):
    few, some, many = (doubt(trained, fitted(trained, answers(n)[0])) for n in (10, 50, 500))
    assert many < 0.6 * some
    assert some < 0.8 * few


def test_a_model_answered_like_the_known_ones_is_known_as_well_as_they_are(trained):
    _, arms = trained
    learned = doubt(trained, fitted(trained, answers(900)[0]))
    assert learned == pytest.approx(doubt(trained, arms.take([3])), rel=0.5)


def test_without_much_to_say_the_prior_speaks(trained):
    prior = VectorPrior(np.full(4, 0.3), 1e-6 * np.eye(4))
    arm = fitted(trained, answers(20)[0], prior=prior)
    np.testing.assert_allclose(arm.identity[0], 0.3, atol=0.01)
    np.testing.assert_allclose(arm.identity_std[0], 1e-3, rtol=0.05)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_answers_all_alike_give_a_finite_vector(trained, value):
    rows = answers(20)[0]
    arm = fitted(trained, replace(rows, scores=np.full((20, 1), value)))
    assert np.isfinite(arm.identity).all()
    assert np.abs(arm.identity).max() < 20.0


def test_the_mode_is_a_maximum(trained):
    """Newton's answer must not depend on chance: the same answers in another order give it again."""
    rows = answers(40)[0]
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(
        fitted(trained, rows).identity, fitted(trained, rows.rows(order)).identity, atol=1e-5
    )


def test_missing_scores_and_costs_are_no_zeros(trained):
    rows = answers(60)[0]
    gone = np.arange(60) % 3 == 0
    holes = replace(
        rows,
        scores=np.where(gone[:, None], np.nan, rows.scores),
        costs_usd=np.where(gone[:, None], np.nan, rows.costs_usd),
    )
    with_holes, without = fitted(trained, holes), fitted(trained, rows.rows(~gone))
    np.testing.assert_allclose(with_holes.identity, without.identity, atol=1e-6)
    np.testing.assert_allclose(with_holes.log_cost_mean, without.log_cost_mean)


def test_costs_of_the_new_model_are_learned(trained):
    network, _ = trained
    rows = answers(100)[0]
    arm = fitted(trained, rows)
    inputs = network.inputs(rows.embeddings, rows.prompt_tokens)
    expected = predict(network, arm, inputs, rows.prompt_tokens).cost_terms.mean()
    assert expected == pytest.approx((rows.costs_usd / TAU_USD).mean(), rel=0.05)


def test_a_known_name_and_an_empty_answer_are_refused(trained):
    network, arms = trained
    rows = answers(5)[0]
    with pytest.raises(InputError, match="'m0' is in the pool already"):
        fit_new_arm(network, arms, rows, ModelSpec("m0", 1.0, 1.0), OUTPUT_PRICES)
    with pytest.raises(InputError, match="none of the 5 answers of model 'new' has a score"):
        fitted(trained, replace(rows, scores=np.full((5, 1), np.nan)))


@given(st.integers(1, 60), st.integers(1, 15), st.integers(0, 1000))
def test_a_selection_holds_so_many_distinct_prompts(n_prompts, strata, seed):
    rng = np.random.default_rng(seed)
    rows = stratified_selection(rng.random((60, 4)), n_prompts, rng, strata=strata)
    assert len(set(rows.tolist())) == n_prompts
    assert ((rows >= 0) & (rows < 60)).all()


def test_a_selection_spans_easy_to_hard():
    rng = np.random.default_rng(0)
    ease = np.linspace(0, 1, 1000)
    scores = ease[:, None] + np.array([-0.1, 0.1])
    rows = stratified_selection(scores, 20, rng, strata=10)
    assert np.histogram(ease[rows], bins=10, range=(0, 1))[0].tolist() == [2] * 10


def test_telling_prompts_are_asked_more_often():
    rng = np.random.default_rng(0)
    telling = rng.random(2000) < 0.5
    scores = np.where(telling[:, None], [[0.0, 1.0]], [[0.5, 0.5]]) + rng.normal(0, 0.01, (2000, 2))
    rows = stratified_selection(scores, 50, rng)
    assert telling[rows].mean() > 0.95
    assert discrimination(scores)[telling].min() > discrimination(scores)[~telling].max()


def test_more_prompts_than_there_are_cannot_be_asked():
    with pytest.raises(InputError, match="9 prompts are to be chosen from 4"):
        stratified_selection(np.zeros((4, 2)), 9, np.random.default_rng(0))
