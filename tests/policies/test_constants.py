"""Constant routers keep to the Policy contract."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.constants import AlwaysPolicy, BestSinglePolicy, OraclePolicy, RandomPolicy
from policies.preference import preferences_from_w_cost

MODELS = ("a", "b", "c")


def every_policy():
    rng = np.random.default_rng(0)
    scores, costs = rng.random((6, 3)), rng.random((6, 3))
    return [
        AlwaysPolicy(MODELS, "b"),
        RandomPolicy(MODELS),
        BestSinglePolicy.fit(MODELS, scores, costs, 1.0),
        OraclePolicy(MODELS, scores, costs, 1.0),
    ]


@pytest.mark.parametrize("policy", every_policy(), ids=lambda p: p.kind)
@given(mask=st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=6, max_size=6))
def test_rows_sum_to_one_over_eligible_models(policy, mask):
    eligible = np.array(mask)
    p = policy.action_probabilities(np.zeros((6, 2)), preferences_from_w_cost(0.5, 6), eligible)
    assert np.allclose(p.sum(axis=1), 1.0)
    assert (p[~eligible] == 0).all()


@pytest.mark.parametrize("policy", every_policy(), ids=lambda p: p.kind)
def test_row_without_eligible_model_is_refused(policy):
    eligible = np.ones((6, 3), dtype=bool)
    eligible[4] = False
    with pytest.raises(ValueError, match="row 4 has no eligible model"):
        policy.action_probabilities(np.zeros((6, 2)), preferences_from_w_cost(0.5, 6), eligible)


@pytest.mark.parametrize("policy", every_policy()[:3], ids=lambda p: p.kind)
def test_saved_and_loaded_policy_decides_the_same(policy, tmp_path):
    policy.save(tmp_path)
    again = type(policy).load(tmp_path, MODELS)
    w = preferences_from_w_cost(np.linspace(0, 1, 6))
    assert np.array_equal(
        again.action_probabilities(np.zeros((6, 2)), w), policy.action_probabilities(np.zeros((6, 2)), w)
    )


def test_best_single_turns_from_quality_to_cost():
    scores = np.array([[0.9, 0.5, 0.1]] * 4)
    costs = np.array([[1.0, 0.5, 0.01]] * 4)
    policy = BestSinglePolicy.fit(MODELS, scores, costs, 1.0)
    p = policy.action_probabilities(np.zeros((2, 1)), preferences_from_w_cost(np.array([0.0, 1.0])))
    assert p.argmax(axis=1).tolist() == [0, 2]
