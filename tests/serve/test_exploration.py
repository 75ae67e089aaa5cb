from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve.exploration import draw, explored
from serve.settings.decision import ExplorationSettings

K = 5
settings_of = st.builds(
    ExplorationSettings,
    kind=st.sampled_from(["epsilon", "softmax", "newcomers"]),
    newcomer_percent=st.floats(0, 100),
    traffic_percent=st.floats(0, 100),
    epsilon=st.floats(0, 1),
    temperature=st.floats(1e-3, 10),
    propensity_floor=st.floats(0, 0.5),
)
masks = st.lists(st.booleans(), min_size=K, max_size=K)
rows = st.lists(st.floats(-1, 1), min_size=K, max_size=K)
worths = st.lists(st.floats(0, 1), min_size=K, max_size=K)


def one_hot(values, eligible):
    base = np.zeros(K)
    base[np.where(eligible, values, -np.inf).argmax()] = 1.0
    return base


@given(settings=settings_of, values=rows, eligible=masks, worth=worths)
def test_it_is_a_distribution_over_the_eligible_models(settings, values, eligible, worth):
    assume(any(eligible))
    mask = np.array(eligible)
    found = explored(one_hot(values, mask), np.array(values), mask, settings, np.where(mask, worth, 0.0))
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert (found[~mask] == 0).all()
    assert (found[mask] >= min(settings.propensity_floor, 1 / mask.sum()) - 1e-12).all()


@given(values=rows, epsilon=st.floats(0, 1), percent=st.floats(0, 100))
def test_the_coin_is_part_of_the_propensity(values, epsilon, percent):
    settings = ExplorationSettings(kind="epsilon", epsilon=epsilon, traffic_percent=percent)
    base = one_hot(values, np.ones(K, dtype=bool))
    found = explored(base, np.array(values), np.ones(K, dtype=bool), settings)
    explores = epsilon * percent / 100
    np.testing.assert_allclose(found, (1 - explores) * base + explores / K, atol=1e-12)


@given(values=rows, shift=st.floats(-5, 5))
def test_softmax_prefers_larger_values_whatever_their_origin(values, shift):
    settings = ExplorationSettings(kind="softmax", temperature=0.2)
    everyone = np.ones(K, dtype=bool)
    found = explored(one_hot(values, everyone), np.array(values), everyone, settings)
    order = np.argsort(values)
    assert (np.diff(found[order]) >= -1e-12).all()
    shifted = explored(one_hot(values, everyone), np.array(values) + shift, everyone, settings)
    np.testing.assert_allclose(found, shifted, atol=1e-9)


@given(values=rows, worth=worths, percent=st.floats(0, 100))
def test_newcomers_get_what_they_are_worth_up_to_the_cap(values, worth, percent):
    settings = ExplorationSettings(kind="newcomers", newcomer_percent=percent)
    everyone = np.ones(K, dtype=bool)
    base = one_hot(values, everyone)
    found = explored(base, np.array(values), everyone, settings, np.array(worth))
    given_away = min(sum(worth), percent / 100)
    assert found[base == 1.0].item() >= 1.0 - given_away - 1e-12
    tried = found[base == 0.0]
    assert tried.sum() <= given_away + 1e-12
    assert (tried <= np.array(worth)[base == 0.0] + 1e-12).all()


def test_newcomers_share_the_cap_by_their_worth():
    settings = ExplorationSettings(kind="newcomers", newcomer_percent=10)
    worth = np.array([0.0, 0.0, 0.3, 0.1, 0.0])
    base = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    found = explored(base, base, base > -1, settings, worth)
    np.testing.assert_allclose(found, [0.9, 0.0, 0.075, 0.025, 0.0])
    timid = explored(base, base, base > -1, settings, 0.1 * worth)
    np.testing.assert_allclose(timid, [0.96, 0.0, 0.03, 0.01, 0.0])


def test_a_policy_without_a_posterior_has_no_newcomers():
    base = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    assert explored(base, base, base > -1, ExplorationSettings(kind="newcomers")) is base


def test_none_changes_nothing():
    base = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    assert explored(base, base, base > -1, ExplorationSettings(propensity_floor=0.1)) is base


@pytest.mark.parametrize(
    "settings",
    [
        ExplorationSettings(kind="epsilon", epsilon=0.4, traffic_percent=50, propensity_floor=0.02),
        ExplorationSettings(kind="softmax", temperature=0.3, traffic_percent=80),
        ExplorationSettings(kind="newcomers", newcomer_percent=20),
    ],
)
def test_draws_come_as_often_as_their_propensities_say(settings):
    eligible = np.array([True, True, False, True, True])
    values = np.array([0.1, 0.5, 0.9, 0.3, -0.2])
    worth = np.array([0.2, 0.0, 0.0, 0.1, 0.0])
    found = explored(one_hot(values, eligible), values, eligible, settings, worth)
    rng, n = np.random.default_rng(0), 20_000
    counts = np.bincount([draw(found, rng) for _ in range(n)], minlength=K)
    # Five standard errors of a binomial share.
    assert (np.abs(counts / n - found) <= 5 * np.sqrt(found * (1 - found) / n) + 1e-12).all()
