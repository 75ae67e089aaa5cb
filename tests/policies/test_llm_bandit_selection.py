"""Strategies that choose the prompts a new model is asked."""

import numpy as np
import pytest

from policies.errors import InputError
from policies.llm_bandit.onboarding import VectorPrior
from policies.llm_bandit.selection import SELECTIONS, AskablePrompts, select


def askable(n=80, m=4, k=6, seed=0):
    rng = np.random.default_rng(seed)
    loading, offset = rng.normal(size=(n, m)), rng.normal(size=n)
    scores = 1 / (1 + np.exp(-(loading @ rng.normal(size=(m, k)) + offset[:, None])))
    return AskablePrompts(scores, loading, offset, VectorPrior.standard(m))


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("n_prompts", [1, 7, 80])
def test_every_strategy_chooses_so_many_distinct_prompts(name, n_prompts):
    rows = select(name, askable(), n_prompts, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows) == n_prompts
    assert set(rows.tolist()) <= set(range(80))


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_seed_repeats_a_choice(name):
    first, second = (select(name, askable(), 12, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(InputError, match="selection 'best' is not known; allowed: stratified, random"):
        select("best", askable(), 3, np.random.default_rng(0))
    with pytest.raises(InputError, match="81 prompts are to be chosen from 80"):
        select("random", askable(), 81, np.random.default_rng(0))
