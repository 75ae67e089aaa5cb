"""Strategies that choose the prompts a new model is asked."""

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InputError
from policies.llm_bandit.item_effects import ItemEffects
from policies.llm_bandit.onboarding import VectorPrior
from policies.llm_bandit.selection import SELECTIONS, AskablePrompts, select


def askable(n=80, m=4, k=6, seed=0):
    rng = np.random.default_rng(seed)
    loading, offset = rng.normal(size=(n, m)), rng.normal(size=n)
    scores = 1 / (1 + np.exp(-(loading @ rng.normal(size=(m, k)) + offset[:, None])))
    return AskablePrompts(scores, loading, offset, VectorPrior(np.zeros(m), np.eye(m)))


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("n_prompts", [1, 7, 77, 80])
def test_every_strategy_chooses_so_many_distinct_prompts(name, n_prompts):
    rows = select(name, askable(), n_prompts, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows) == n_prompts
    assert set(rows.tolist()) <= set(range(80))


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_seed_repeats_a_choice(name):
    first, second = (select(name, askable(), 12, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def doubt(prompts, rows):
    """Mean variance of the predicted logit that answers to these rows leave."""
    a, w = prompts.loading[rows], 0.25
    covariance = np.linalg.inv(np.linalg.inv(prompts.prior.covariance) + w * a.T @ a)
    return np.einsum("nm,mk,nk->n", prompts.loading, covariance, prompts.loading).mean()


def test_informative_prompts_leave_less_doubt_than_random_ones():
    prompts = askable(n=1000)
    chosen, drawn = (
        np.mean([doubt(prompts, select(name, prompts, 20, np.random.default_rng(d))) for d in range(5)])
        for name in ("informative", "random")
    )
    assert chosen < 0.9 * drawn


def test_informative_prompts_span_easy_to_hard():
    prompts = askable(n=400)
    rows = select("informative", prompts, 20, np.random.default_rng(0))
    edges = np.quantile(prompts.scores.mean(axis=1), np.linspace(0, 1, 11))
    np.testing.assert_array_equal(np.histogram(prompts.scores.mean(axis=1)[rows], bins=edges)[0], 2)


def test_prompts_that_all_known_models_solved_are_not_asked():
    prompts = askable(n=400)
    settled = np.arange(400) % 2 == 0
    effects = ItemEffects(np.ones(400), np.where(settled, 12.0, 0.0), 1.0)
    rows = select("informative", replace(prompts, effects=effects), 20, np.random.default_rng(0))
    assert settled[rows].mean() < 0.1


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(
        InputError, match="selection 'best' is not known; allowed: stratified, random, informative"
    ):
        select("best", askable(), 3, np.random.default_rng(0))
    with pytest.raises(InputError, match="81 prompts are to be chosen from 80"):
        select("random", askable(), 81, np.random.default_rng(0))
