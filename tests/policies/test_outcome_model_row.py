from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.baselines.ridge import RidgePolicy
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.outcome_model.topics import TopicScores

D, P, H, MEMBERS = 24, 6, 16, 3


def a_policy(
    seed: int = 0, n_models: int = 5, *, one_length: bool = False, topics: int = 0
) -> OutcomeModelPolicy:
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.5) -> npt.NDArray[np.float32]:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return OutcomeModelPolicy(
        models=tuple(f"m{k}" for k in range(n_models)),
        features=ContextFeatures(
            mean=normal(D),
            basis=normal(D, P),
            log_tokens_mean=4.0,
            log_tokens_std=0.0 if one_length else 0.8,
            token_scale=0.3,
        ),
        trunk=normal(MEMBERS, P + 1, H),
        trunk_bias=normal(MEMBERS, 1, H),
        head=normal(MEMBERS, H, 2 * n_models),
        head_bias=normal(MEMBERS, 1, 2 * n_models),
        log_cost_mean=rng.uniform(-9, -4, n_models),
        log_cost_std=1.3,
        sigma=rng.uniform(0.2, 1.5, n_models),
        recalibration=rng.uniform(0.7, 1.4, n_models),
        input_price_per_token_usd=rng.uniform(0, 1e-5, n_models),
        tau_usd=0.02,
        topics=TopicScores(normal(topics, P), rng.random((topics, n_models)), 0.4) if topics else None,
    )


POLICY = a_policy()
WITH_TOPICS = a_policy(topics=7)


@pytest.mark.parametrize(
    "policy", [POLICY, WITH_TOPICS, a_policy(topics=2)], ids=["network", "topics", "two"]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    w_cost=st.floats(0.0, 1.0),
    # Beyond tau the prompt alone exhausts the cost scale.
    tokens=st.floats(0.0, 1e6),
)
def test_one_row_agrees_with_the_batch(policy, seed, w_cost, tokens):
    embedding = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    found = policy.judge(embedding, (1.0 - w_cost, w_cost), tokens)
    batch = policy.expected_outcomes(embedding[None], np.array([tokens]))
    np.testing.assert_allclose(found.scores, batch.scores[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        found.values,
        (1.0 - w_cost) * batch.scores[0] - w_cost * batch.cost_terms[0],
        rtol=0,
        atol=5e-6,
    )


def test_prompts_of_one_length_agree_as_well():
    policy = a_policy(one_length=True)
    embedding = np.ones(D, dtype=np.float32)
    found = policy.judge(embedding, (1.0, 0.0), 17.0)
    batch = policy.expected_outcomes(embedding[None], np.array([17.0]))
    np.testing.assert_allclose(found.values, batch.scores[0], atol=2e-6)


def test_the_largest_value_is_what_the_policy_calls():
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((200, D)).astype(np.float32)
    w = np.tile(np.array([[0.6, 0.4]], dtype=np.float32), (200, 1))
    tokens = rng.uniform(1, 1e4, 200)
    called = POLICY.action_probabilities(embeddings, w, prompt_tokens=tokens).argmax(axis=1)
    judged = [POLICY.judge(e, (0.6, 0.4), t).values.argmax() for e, t in zip(embeddings, tokens)]
    assert np.mean(called == judged) >= 0.99  # but for ties within rounding


def test_the_expected_cost_is_the_mean_of_the_lognormal_that_the_value_caps():
    embedding, tokens = np.full(D, 0.3, dtype=np.float32), 50.0
    outputs = POLICY.outputs(embedding[None], np.array([tokens]))
    mean_log = POLICY.log_output_costs(outputs)[0]
    draws = np.exp(mean_log + POLICY.sigma * np.random.default_rng(0).standard_normal((400_000, 5)))
    expected = POLICY.recalibration * (tokens * POLICY.input_price_per_token_usd + draws.mean(axis=0))
    np.testing.assert_allclose(POLICY.judge(embedding, (0.5, 0.5), tokens).costs_usd, expected, rtol=0.02)


def test_a_policy_that_predicts_no_usd_says_so():
    policy = RidgePolicy(("a", "b"), np.array([[0.0, 0.0], [2.0, 0.4]]), np.array([[0.0, 0.0], [0.5, 0.1]]))
    found = policy.judge(np.zeros(1, dtype=np.float32), (0.5, 0.5), 3.0)
    assert found.costs_usd is None
    assert found.scores.tolist() == pytest.approx([1.0, 0.4])
    assert found.values.tolist() == pytest.approx([0.75, 0.15])
