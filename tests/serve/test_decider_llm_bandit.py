"""Decisions of LLM Bandit in the endpoint: answers with expectations, and newcomers tried within bounds."""

import numpy as np
import pytest

from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import CostModel
from policies.errors import InputError
from policies.pool import ModelPool, ModelSpec
from serve.decider import Decider, check_exploration
from serve.question import Constraints
from serve.releases import Releases
from serve.sessions import Stay
from serve.settings import ServeSettings
from serve.settings.decision import ExplorationSettings
from tests.policies.llm_bandit_case import DIMENSION, TAU_USD, random_router

MODELS, NEW = 6, 1
EMBEDDINGS = np.random.default_rng(3).normal(size=(40, DIMENSION)).astype(np.float32)
NEWCOMERS = ExplorationSettings(kind="newcomers", newcomer_percent=10.0)


def bundle_of(new_models):
    policy = random_router(MODELS, new_models=new_models)
    pool = ModelPool("six", tuple(ModelSpec(m, 1.0, 4.0) for m in policy.models))
    costs = CostModel(pool.prices_per_token_usd, 50.0, np.full(MODELS, 0.001))
    encoder = EncoderIdentity("planted", "0" * 64, "torch-fp32", DIMENSION)
    return RouterBundle(policy, pool, encoder, costs, TAU_USD)


BUNDLE = bundle_of(NEW)
NEWCOMER = BUNDLE.pool.models[-1]


def decider(bundle=BUNDLE, **made):
    return Decider(bundle, rng=np.random.default_rng(0), **made)


def decide(by, row, **kwargs):
    return by.decide(EMBEDDINGS[row], (0.7, 0.3), prompt_tokens=70.0, **kwargs)


def test_the_answer_tells_expected_scores_and_costs():
    found = decide(decider(), 0)
    judged = BUNDLE.policy.judge(EMBEDDINGS[0], (0.7, 0.3), 70.0)
    assert found.expected_scores == pytest.approx(dict(zip(BUNDLE.pool.models, judged.scores)))
    assert found.expected_costs_usd == pytest.approx(dict(zip(BUNDLE.pool.models, judged.costs_usd)))
    assert found.propensity == 1.0


@pytest.mark.parametrize("exclude", [(), ("m0", "m3")])
def test_the_most_probable_of_the_eligible_models_is_called(exclude):
    mask = np.array([m not in exclude for m in BUNDLE.pool.models])
    w = np.array([[0.7, 0.3]])
    for row in range(10):
        expected = BUNDLE.policy.action_probabilities(
            EMBEDDINGS[[row]], w, mask[None], prompt_tokens=np.array([70.0])
        )[0]
        found = decide(decider(), row, constraints=Constraints(exclude=exclude))
        assert found.model == BUNDLE.pool.models[expected.argmax()]
        assert list(found.probabilities.values()) == pytest.approx(expected[mask].tolist(), abs=1e-5)


def test_a_sampled_decision_has_the_policys_own_propensity():
    found = decide(decider(decision="sample"), 0)
    assert 0.0 < found.propensity < 1.0
    assert found.propensity == pytest.approx(found.probabilities[found.model])


def tried_most():
    """The prompt where the newcomer is likeliest to be tried against the policy, and how likely that is."""
    by, greedy = decider(exploration=NEWCOMERS), decider()
    shares = []
    for row in range(len(EMBEDDINGS)):
        if decide(greedy, row).model != NEWCOMER:
            found = decide(by, row)
            share = found.propensity if found.model == NEWCOMER else 1.0 - found.propensity
            shares.append((share, row))
    return max(shares)


def test_a_newcomer_is_called_as_often_as_its_propensity_says_and_no_more_than_the_cap():
    share, row = tried_most()
    assert 0.02 < share <= 0.1 + 1e-12
    by, n = decider(exploration=NEWCOMERS), 600
    found = [decide(by, row) for _ in range(n)]
    called = [d.propensity for d in found if d.model == NEWCOMER]
    assert called == pytest.approx([share] * len(called))
    assert abs(len(called) / n - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_only_newcomers_are_tried():
    by, greedy = decider(exploration=NEWCOMERS), decider()
    for row in range(len(EMBEDDINGS)):
        usual = decide(greedy, row).model
        assert {decide(by, row).model for _ in range(5)} <= {usual, NEWCOMER}


def test_an_excluded_newcomer_is_not_tried():
    by = decider(exploration=NEWCOMERS)
    for row in range(len(EMBEDDINGS)):
        assert decide(by, row, constraints=Constraints(exclude=(NEWCOMER,))).propensity == 1.0


def test_a_pool_that_is_known_well_is_not_explored():
    by = decider(bundle_of(0), exploration=NEWCOMERS)
    assert {decide(by, row).propensity for row in range(len(EMBEDDINGS))} == {1.0}


def test_a_session_leaves_its_model_for_a_large_enough_gain_alone():
    judged = BUNDLE.policy.judge(EMBEDDINGS[0], (0.7, 0.3), 70.0)
    chosen = decide(decider(), 0).model
    gains = judged.values[BUNDLE.pool.models.index(chosen)] - judged.values
    last = BUNDLE.pool.models[int(gains.argmax())]
    assert gains.max() > 0.02
    small, large = (
        Stay(last, cached_tokens=0.0, discount=0.9, min_gain=gain)
        for gain in (gains.max() - 0.01, gains.max() + 0.01)
    )
    assert decide(decider(), 0, stay=small).model == chosen
    assert decide(decider(), 0, stay=large).model == last


def test_an_endpoint_whose_policy_knows_no_newcomers_does_not_start(bundle_dir, encoder, monkeypatch):
    monkeypatch.setattr("serve.releases.load_bundle_encoder", lambda *_, **__: encoder)
    settings = {"bundle": str(bundle_dir), "routing": {"exploration": {"kind": "newcomers"}}}
    with pytest.raises(InputError, match=r"kind=newcomers: policy .* \(barp\) does not say how unsure"):
        Releases.open(ServeSettings.parse(settings))
    check_exploration(BUNDLE, NEWCOMERS)  # one that does is taken
