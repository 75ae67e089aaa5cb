"""One prompt at a time: what LLM Bandit expects of each model, and what it decides once the candidates are known."""

import numpy as np
import pytest

from policies.llm_bandit.identity_vectors import predict
from tests.policies.llm_bandit_case import DIMENSION, TAU_USD, random_router

ROUTER = random_router(8, new_models=2)
EMBEDDINGS = np.random.default_rng(1).normal(size=(12, DIMENSION)).astype(np.float32)


def judged(row, w_cost=0.3, tokens=70.0, router=ROUTER):
    return router.judge(EMBEDDINGS[row], (1.0 - w_cost, w_cost), tokens)


@pytest.mark.parametrize("head", ["arm", "identity"])
def test_the_decision_is_that_of_the_batch_path(head):
    router = random_router(8, head=head)
    eligible = np.random.default_rng(2).random((12, 8)) < 0.6
    eligible[:, 3] = True
    eligible[0] = True
    w = np.tile([0.7, 0.3], (12, 1))
    batch = router.action_probabilities(EMBEDDINGS, w, eligible, prompt_tokens=np.full(12, 70.0))
    for row in range(12):
        found = judged(row, router=router).probabilities(eligible[row])
        np.testing.assert_allclose(found, batch[row], atol=1e-5)
        assert (found[~eligible[row]] == 0.0).all()


def test_scores_and_values_are_the_predicted_ones():
    network = ROUTER.network
    tokens = np.array([70.0])
    expected = predict(network, ROUTER.arms, network.inputs(EMBEDDINGS[:1], tokens), tokens)
    found = judged(0, w_cost=0.4)
    np.testing.assert_allclose(found.scores, expected.scores[0])
    np.testing.assert_allclose(found.values, 0.6 * expected.scores[0] - 0.4 * expected.cost_terms[0])


def test_expected_costs_are_not_capped_and_grow_with_the_prompt():
    short, long = judged(0, tokens=70.0).costs_usd, judged(0, tokens=50_000.0).costs_usd
    assert (short > 0.0).all()
    assert (short < long).all()
    assert long.min() > TAU_USD


def test_the_posterior_of_new_models_is_wider():
    std = judged(0).logit_std
    assert std.shape == (8,)
    assert std[6:].min() > 5.0 * std[:6].max()
