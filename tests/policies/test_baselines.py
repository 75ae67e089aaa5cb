from __future__ import annotations

import numpy as np
import pytest

from policies.baselines.mlp import MlpPolicy
from policies.baselines.regression import ClusterPolicy, KnnPolicy, RidgePolicy
from policies.datasets import OutcomeMatrix
from policies.pool import ModelPool, ModelSpec
from policies.preference import preferences_from_w_cost

KINDS = (RidgePolicy, KnnPolicy, ClusterPolicy, MlpPolicy)
POOL = ModelPool("two", (ModelSpec("a", 5.0, 5.0), ModelSpec("b", 1.0, 1.0)))


def world(n, seed):
    """Model a answers prompts on the right, model b those on the left; b costs a tenth."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    right = x[:, 0] > 0
    return OutcomeMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(n)]),
        tasks=np.full(n, ""),
        pool=POOL,
        embeddings=x,
        prompt_tokens=np.ones(n),
        scores=np.stack([right, ~right], axis=1).astype(float),
        costs_usd=np.tile([1e-3, 1e-4], (n, 1)),
        completion_tokens=np.full((n, 2), np.nan),
    )


@pytest.fixture(scope="module", params=KINDS, ids=lambda c: c.kind)
def fitted(request):
    return request.param.fit(world(800, 0), 1e-3)


def test_quality_alone_calls_the_model_that_answers(fitted):
    test = world(200, 1)
    p = fitted.action_probabilities(test.embeddings, preferences_from_w_cost(0.0, 200))
    assert (p * test.scores).sum(axis=1).mean() > 0.85


def test_cost_alone_calls_the_cheaper_model(fitted):
    p = fitted.action_probabilities(world(50, 2).embeddings, preferences_from_w_cost(1.0, 50))
    assert (p[:, 1] == 1.0).all()


def test_an_ineligible_model_is_never_called(fitted):
    eligible = np.tile([True, False], (20, 1))
    p = fitted.action_probabilities(world(20, 3).embeddings, preferences_from_w_cost(1.0, 20), eligible)
    assert (p[:, 0] == 1.0).all()


def test_loaded_policy_decides_as_the_saved_one(fitted, tmp_path):
    fitted.save(tmp_path)
    again = type(fitted).load(tmp_path, fitted.models)
    x, w = world(60, 4).embeddings, preferences_from_w_cost(0.3, 60)
    np.testing.assert_array_equal(again.action_probabilities(x, w), fitted.action_probabilities(x, w))


@pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.kind)
def test_a_handful_of_prompts_is_enough_to_fit(kind):
    policy = kind.fit(world(5, 5), 1e-3)
    p = policy.action_probabilities(world(3, 6).embeddings, preferences_from_w_cost(0.5, 3))
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
