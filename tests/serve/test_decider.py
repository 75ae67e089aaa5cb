from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decider import Decider, NoEligibleModelError, UnknownModelsError
from serve.question import Constraints

QUALITY = (1.0, 0.0)


def only(models: list[str]) -> Constraints:
    return Constraints(models=tuple(models))


EMBEDDING = np.random.default_rng(0).standard_normal(384).astype(np.float32)


def test_greedy_takes_the_most_probable_model_with_propensity_one(bundle):
    decision = Decider(bundle, "greedy").decide(EMBEDDING, QUALITY, prompt_tokens=10)
    assert decision.model == max(decision.probabilities, key=decision.probabilities.__getitem__)
    assert decision.propensity == 1.0


def test_probabilities_are_the_policys(bundle):
    decision = Decider(bundle).decide(EMBEDDING, (0.4, 0.6), prompt_tokens=10)
    expected = bundle.policy.action_probabilities(EMBEDDING[None], np.array([[0.4, 0.6]], dtype=np.float32))
    assert list(decision.probabilities.values()) == pytest.approx(expected[0].tolist())


def test_expected_costs_are_the_cost_models(bundle):
    decision = Decider(bundle).decide(EMBEDDING, QUALITY, prompt_tokens=70)
    expected = bundle.cost_model.expected_costs_usd(np.array([70.0]), 1)[0]
    assert list(decision.expected_costs_usd.values()) == pytest.approx(expected.tolist())


def test_only_named_models_are_eligible(bundle):
    decision = Decider(bundle).decide(
        EMBEDDING, QUALITY, prompt_tokens=10, constraints=only(["tiny", "large"])
    )
    assert set(decision.probabilities) == {"tiny", "large"}
    assert sum(decision.probabilities.values()) == pytest.approx(1.0)


def test_a_prompt_beyond_the_context_window_rules_a_model_out_and_says_so(bundle):
    decision = Decider(bundle).decide(EMBEDDING, QUALITY, prompt_tokens=5_000)
    assert set(decision.probabilities) == {"large"}
    assert "1000" in decision.ineligible["small"]


def test_a_prompt_that_just_fits_is_eligible(bundle):
    assert "tiny" in Decider(bundle).decide(EMBEDDING, QUALITY, prompt_tokens=100).probabilities


def test_nothing_eligible_names_each_reason(bundle):
    with pytest.raises(NoEligibleModelError) as caught:
        Decider(bundle).decide(EMBEDDING, QUALITY, prompt_tokens=5_000, constraints=only(["small", "tiny"]))
    assert set(caught.value.reasons) == {"small", "tiny"}


def test_unknown_models_are_named(bundle):
    with pytest.raises(UnknownModelsError, match="'gpt'"):
        Decider(bundle).decide(EMBEDDING, QUALITY, prompt_tokens=10, constraints=only(["tiny", "gpt"]))


def test_sampling_follows_the_policy_and_reports_its_probability(bundle):
    decider = Decider(bundle, "sample", np.random.default_rng(1))
    drawn = [decider.decide(EMBEDDING, (0.5, 0.5), prompt_tokens=10) for _ in range(4_000)]
    counts = Counter(decision.model for decision in drawn)
    for model, probability in drawn[0].probabilities.items():
        # Five standard errors of a binomial share.
        assert counts[model] / 4_000 == pytest.approx(
            probability, abs=5 * (probability * (1 - probability) / 4_000) ** 0.5 + 1e-9
        )
    assert all(d.propensity == d.probabilities[d.model] for d in drawn[:50])


@settings(max_examples=50, deadline=None)
@given(
    w_cost=st.floats(0.0, 1.0),
    tokens=st.integers(1, 100_000),
    seed=st.integers(0, 2**32 - 1),
    decision=st.sampled_from(["greedy", "sample"]),
)
def test_a_decision_is_always_an_eligible_model(bundle, w_cost, tokens, seed, decision):
    decider = Decider(bundle, decision, np.random.default_rng(seed))
    made = decider.decide(EMBEDDING, (1.0 - w_cost, w_cost), prompt_tokens=tokens)
    assert made.model in made.probabilities
    assert not set(made.probabilities) & set(made.ineligible)
    assert 0.0 < made.propensity <= 1.0
