"""What recorded answers say of a prompt's own difficulty."""

import numpy as np
import pytest
from scipy.special import expit

from policies.llm_bandit.irt_training import train_identity_vectors
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.observations import Observations
from policies.llm_bandit.onboarding import fit_new_arm
from policies.llm_bandit.selection import AskablePrompts
from policies.pool import ModelSpec
from tests.policies.llm_bandit_case import SETTINGS, TAU_USD, names, prices, world


def simulated(n=4000, k=20, s=1.5, seed=0):
    """Answers whose prompts have an effect u that the logits do not show."""
    rng = np.random.default_rng(seed)
    eta, u = rng.normal(size=(n, k)), s * rng.normal(size=n)
    scores = rng.random((n, k)) < expit(np.sqrt(1 + np.pi * s**2 / 8) * eta + u[:, None])
    return eta, scores.astype(float), u


def test_the_effect_of_a_prompt_is_recovered():
    eta, scores, u = simulated()
    effects = ItemEffects.given(eta, scores)
    assert effects.deviation == pytest.approx(1.5, abs=0.25)
    assert np.corrcoef(effects.shift, u)[0, 1] > 0.9


def test_probabilities_given_the_known_answers_are_calibrated():
    eta, scores, _ = simulated()
    effects = ItemEffects.given(eta[:, 1:], scores[:, 1:])
    p = expit(effects.scale * eta[:, 0] + effects.shift)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (p >= low) & (p < high)
        assert scores[inside, 0].mean() == pytest.approx(p[inside].mean(), abs=0.05)


def test_without_an_effect_the_network_has_the_last_word():
    eta, scores, _ = simulated(s=0.0)
    assert ItemEffects.given(eta, scores).deviation <= 0.25


def test_unanswered_prompts_have_no_shift_and_the_network_s_probability():
    eta, scores, _ = simulated(n=500)
    scores[:100] = np.nan
    effects = ItemEffects.given(eta, scores)
    np.testing.assert_allclose(effects.shift[:100], 0.0, atol=1e-9)
    np.testing.assert_allclose(effects.scale[:100], 1.0, rtol=1e-6)


def test_nothing_recorded_is_no_effect():
    effects = ItemEffects.given(np.zeros((3, 2)), np.full((3, 2), np.nan))
    np.testing.assert_array_equal(effects.scale, 1.0)
    np.testing.assert_array_equal(effects.shift, 0.0)


@pytest.fixture(scope="module")
def trained():
    rows, _ = world(n=300, n_models=6)
    return rows, *train_identity_vectors(rows, names(6), prices(6), TAU_USD, SETTINGS)


@pytest.mark.parametrize("answered", ["all", "none"])
def test_an_answer_counts_against_what_the_known_models_answered(trained, answered):
    """A new model that solves prompts counts for more where the known models failed them."""
    rows, network, arms = trained
    asked = rows.rows(np.arange(30))
    effects = ItemEffects(np.ones(30), np.full(30, 2.0 if answered == "all" else -2.0), 1.0)
    new = Observations(
        asked.prompt_ids,
        asked.embeddings,
        asked.prompt_tokens,
        (np.arange(30) % 2)[:, None].astype(float),
        asked.costs_usd[:, :1],
    )
    spec = ModelSpec("new", 1.0, 4.0)
    plain = fit_new_arm(network, arms, new, spec, np.full(6, 4e-6))
    told = fit_new_arm(network, arms, new, spec, np.full(6, 4e-6), effects=effects)
    prompts = AskablePrompts.of(network, arms, rows.embeddings, rows.prompt_tokens)
    plain_mean, told_mean = (
        (prompts.loading @ arm.identity[0] + prompts.offset).mean() for arm in (plain, told)
    )
    assert (told_mean < plain_mean) == (answered == "all")
