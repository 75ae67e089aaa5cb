"""Which models count as new, and how likely each is the best."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from policies.newcomers import chance_of_best, exploration_worth, newness

K = 6
EVERYONE = np.ones(K, dtype=bool)
STD = np.array([0.1, 0.12, 0.09, 0.1, 0.11, 0.6])
unit = st.floats(0.02, 0.98)
cases = st.tuples(
    st.lists(unit, min_size=K, max_size=K),
    st.lists(st.floats(0.0, 0.5), min_size=K, max_size=K),
    st.lists(st.floats(1e-3, 3.0), min_size=K, max_size=K),
)


def values_of(scores, costs, w_quality=0.7):
    return w_quality * scores - (1.0 - w_quality) * costs


@pytest.mark.parametrize("seed", range(3))
def test_the_chance_of_being_best_is_that_of_posterior_draws(seed):
    rng = np.random.default_rng(seed)
    scores, costs, std = rng.uniform(0.2, 0.9, K), rng.uniform(0, 1, K), rng.uniform(0.1, 1.5, K)
    eligible = np.array([True, True, False, True, True, True])
    columns = np.flatnonzero(eligible)
    found = chance_of_best(values_of(scores, costs), scores, std, 0.7, eligible, columns)
    drawn = 0.7 * expit(logit(scores) + std * rng.normal(size=(100_000, K))) - 0.3 * costs
    best = columns[drawn[:, columns].argmax(axis=1)]
    np.testing.assert_allclose(found, np.bincount(best, minlength=K)[columns] / 100_000, atol=0.01)


@given(cases)
def test_chances_are_probabilities(case):
    scores, costs, std = map(np.array, case)
    found = chance_of_best(values_of(scores, costs), scores, std, 0.7, EVERYONE, np.arange(K))
    assert ((found >= 0.0) & (found <= 1.0)).all()


def test_of_no_rival_a_model_is_the_best():
    scores, alone = np.full(K, 0.5), np.arange(K) == 2
    assert chance_of_best(scores, scores, STD, 1.0, alone, np.array([2])) == pytest.approx(1.0)


def test_without_a_weight_on_quality_its_doubt_is_worth_nothing():
    scores = np.full(K, 0.5)
    assert chance_of_best(-scores, scores, STD, 0.0, EVERYONE, np.arange(K)).sum() == 0.0


def test_the_wide_posterior_is_new_and_the_others_are_not():
    found = newness(STD, 2.0)
    assert (found[:5] == 0.0).all()
    assert found[5] == pytest.approx(1.0 - (2.0 * 0.1 / 0.6) ** 2, abs=0.01)


def test_equally_unsure_models_are_not_new():
    assert newness(np.full(K, 3.0), 1.0).sum() == 0.0


@given(st.floats(0.05, 5.0), st.floats(1.01, 3.0))
def test_newness_fades_as_the_posterior_narrows(std, factor):
    wide, narrow = (newness(np.append(STD[:5], s), 2.0)[5] for s in (std * factor, std))
    assert wide >= narrow
    assert newness(np.append(STD[:5], 0.15), 2.0)[5] == 0.0


def test_a_newcomers_worth_fades_with_its_doubt_until_it_is_known():
    scores, costs = np.array([0.7, 0.5, 0.4, 0.6, 0.3, 0.6]), np.zeros(K)
    worth = [
        exploration_worth(values_of(scores, costs), scores, np.append(STD[:5], s), 0.7, EVERYONE, 2.0)
        for s in (1.0, 0.6, 0.3, 0.19)
    ]
    assert [w[:5].sum() for w in worth] == [0.0] * 4
    last = [w[5] for w in worth]
    assert last == sorted(last, reverse=True)
    assert last[0] > 0.2
    assert last[-1] == 0.0


def test_an_ineligible_newcomer_is_worth_nothing():
    scores = np.full(K, 0.5)
    found = exploration_worth(scores, scores, STD, 1.0, np.arange(K) != 5, 2.0)
    assert (found == 0.0).all()
