"""Stage 2 of LLM Bandit: the set policy's symmetries, its numpy twin, pretraining and draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import InputError
from policies.llm_bandit.contexts import DecisionTable, nearest_neighbours, paid_outcomes
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork
from policies.llm_bandit.irt_training import train_identity_vectors
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.pretraining import PretrainSettings, pretrain
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape, normalised
from policies.llm_bandit.set_policy import FrozenSetPolicy
from tests.policies.llm_bandit_case import SETTINGS, TAU_USD, names, prices, world

INPUTS, IDENTITY = 5, 3
SHAPES = [
    SetShape(INPUTS, IDENTITY, width=16, head=head, normalisation=kind)
    for head in ("arm", "identity")
    for kind in ("tau", "set")
]


def random_network(shape, seed=0):
    network = SetPolicyNetwork.seeded(shape, seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return network.eval()


def case(n, size, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((n, size)) < 0.7
    mask[np.arange(n), rng.integers(0, size, n)] = True
    w = rng.random((n, 1))
    arrays = rng.normal(size=(n, INPUTS)), rng.random((n, size, IDENTITY + 2)), np.hstack([1 - w, w])
    inputs, arms, preferences = (a.astype(np.float32) for a in arrays)
    return inputs, arms, mask, preferences


def run(network, inputs, arms, mask, preferences):
    with torch.inference_mode():
        logits, values = network(
            torch.from_numpy(inputs),
            torch.from_numpy(arms),
            torch.from_numpy(mask),
            torch.from_numpy(preferences)[:, None],
        )
    return logits[:, 0].numpy(), values.numpy()


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 10_000), st.sampled_from(SHAPES))
def test_the_policy_is_permutation_equivariant_and_its_value_invariant(size, seed, shape):
    network = random_network(shape)
    inputs, arms, mask, w = case(3, size, seed)
    order = np.random.default_rng(seed).permutation(size)
    logits, values = run(network, inputs, arms, mask, w)
    shuffled, shuffled_values = run(network, inputs, arms[:, order], mask[:, order], w)
    np.testing.assert_allclose(shuffled, logits[:, order], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shuffled_values, values, rtol=1e-3, atol=1e-3)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 10_000), st.sampled_from(SHAPES))
def test_padding_changes_nothing(size, padding, seed, shape):
    network = random_network(shape)
    inputs, arms, mask, w = case(3, size, seed)
    rng = np.random.default_rng(seed)
    padded = np.concatenate([arms, rng.normal(size=(3, padding, IDENTITY + 2)).astype(np.float32)], axis=1)
    wider = np.concatenate([mask, np.zeros((3, padding), bool)], axis=1)
    logits, values = run(network, inputs, arms, mask, w)
    with_padding, padded_values = run(network, inputs, padded, wider, w)
    np.testing.assert_allclose(with_padding[:, :size][mask], logits[mask], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(padded_values, values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.head}-{s.normalisation}")
def test_numpy_decides_as_torch_does(shape):
    network = random_network(shape)
    inputs, arms, mask, w = case(40, 9)
    logits, _ = run(network, inputs, arms, mask, w)
    ours = FrozenSetPolicy.of(network).logits(inputs, arms, mask, w)
    np.testing.assert_allclose(ours[mask], logits[mask], rtol=1e-4, atol=1e-4)


def test_the_value_does_not_depend_on_the_preference():
    network = random_network(SHAPES[0])
    inputs, arms, mask, w = case(10, 6)
    np.testing.assert_array_equal(
        run(network, inputs, arms, mask, w)[1], run(network, inputs, arms, mask, w[::-1].copy())[1]
    )


def test_many_preferences_at_once_are_each_alone():
    network = random_network(SHAPES[1])
    inputs, arms, mask, _ = case(4, 6)
    w = torch.rand(4, 7, 1)
    w = torch.cat([w, 1 - w], dim=2)
    tensors = [torch.from_numpy(a) for a in (inputs, arms, mask)]
    together, _ = network(*tensors, w)
    alone = torch.stack([network(*tensors, w[:, i : i + 1])[0][:, 0] for i in range(7)], dim=1)
    torch.testing.assert_close(together, alone)


def test_before_training_the_arm_head_follows_predicted_reward():
    inputs, arms, mask, w = case(50, 6)
    logits, _ = run(SetPolicyNetwork.seeded(SHAPES[0], 0), inputs, arms, mask, w)
    value = np.where(mask, w[:, :1] * arms[..., -1] - w[:, 1:] * arms[..., -2], -np.inf)
    np.testing.assert_array_equal(logits.argmax(axis=1), value.argmax(axis=1))


def test_within_a_set_the_best_and_the_dearest_are_one():
    scores = torch.tensor([[0.2, 0.5, 0.9], [0.0, 0.0, 0.0]])
    costs = torch.tensor([[0.1, 0.4, 0.8], [0.2, 0.1, 0.3]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    s, c = normalised(scores, costs, mask, "set")
    torch.testing.assert_close(s[0, :2], torch.tensor([0.4, 1.0]))
    torch.testing.assert_close(c[0, :2], torch.tensor([0.25, 1.0]))
    assert (s[1] == 0.0).all()
    assert torch.isfinite(s).all()


def test_pretraining_teaches_the_identity_head_the_target():
    rng = np.random.default_rng(0)
    n, k = 500, 5
    scores = rng.random((n, k)).astype(np.float32)
    costs = np.tile(np.linspace(0.05, 0.9, k), (n, 1)).astype(np.float32)
    inputs = rng.normal(size=(n, INPUTS)).astype(np.float32)
    identity = rng.normal(size=(k, IDENTITY + 3)).astype(np.float32)
    everything = np.ones((n, k), bool)
    table = DecisionTable(
        inputs, identity, scores, costs, scores, costs, everything, nearest_neighbours(inputs, 3)
    )
    network = SetPolicyNetwork.seeded(SetShape(INPUTS, IDENTITY + 3, head="identity"), 0)
    losses = []
    pretrain(
        network,
        table,
        SetSampler(2, 5),
        PretrainSettings(steps=200, batch_size=256, lr=5e-3),
        seed=0,
        record=lambda line: losses.append(line["imitation_loss"]),
    )
    assert losses[-1] < 0.7 * losses[0]


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 2)), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_preference_ratios_stay_in_their_intervals(pieces, seed):
    intervals = tuple((low, low + width) for low, width in pieces)
    w = SetSampler(ratio_intervals=intervals, simplex_share=0.0).preferences(
        50, 4, np.random.default_rng(seed)
    )
    ratio = w[..., 1] / w[..., 0]
    inside = [(ratio >= low - 1e-4) & (ratio <= high + 1e-3) for low, high in intervals]
    assert np.any(inside, axis=0).all()
    np.testing.assert_allclose(w.sum(axis=2), 1.0, rtol=1e-6)


def test_preferences_outside_every_interval_cannot_be_drawn():
    w_cost = np.array([0.0, 0.2, 1 / 3, 0.5, 0.6, 0.7, 1.0])
    w = np.stack([1.0 - w_cost, w_cost], axis=1)
    sampler = SetSampler(ratio_intervals=((0.0, 0.3), (1.0, 1.5)), simplex_share=0.0)
    assert sampler.draws(w).tolist() == [True, True, False, True, True, False, False]
    assert replace(sampler, simplex_share=0.1).draws(w).all()


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(6, 20))
def test_candidate_sets_hold_distinct_available_models(seed, low, high):
    rng = np.random.default_rng(seed)
    available = rng.random((30, 9)) < 0.5
    available[:, 0] = True
    columns, mask = SetSampler(low, high).candidates(available, rng)
    for row in range(30):
        chosen = columns[row][mask[row]]
        assert len(set(chosen)) == len(chosen) >= min(low, available[row].sum())
        assert available[row, chosen].all()


def test_pseudo_outcomes_of_a_log_are_unbiased():
    rng = np.random.default_rng(0)
    n = 60_000
    truth, guess = np.array([0.3, 0.8]), np.tile([0.5, 0.5], (n, 1))
    propensity = np.array([0.8, 0.2])
    actions = (rng.random(n) < propensity[1]).astype(int)
    seen = np.full((n, 2), np.nan)
    seen[np.arange(n), actions] = truth[actions]
    paid, _, available = paid_outcomes(
        guess, guess, (seen, seen), (actions, propensity[actions], np.ones((n, 2), bool)), 100.0
    )
    np.testing.assert_allclose(paid.mean(axis=0), truth, atol=0.01)
    assert available.all()


def test_a_table_without_outcomes_is_refused():
    nothing = np.full((3, 2), np.nan)
    with pytest.raises(InputError, match="nothing to learn from"):
        paid_outcomes(np.zeros((3, 2)), np.zeros((3, 2)), (nothing, nothing), None, 10.0)


@pytest.fixture(scope="module")
def policy():
    rows, _ = world(n=300)
    network, arms = train_identity_vectors(rows, names(6), prices(6), TAU_USD, SETTINGS)
    shape = SetShape(network.features.basis.shape[1] + 1, network.identity_dim, head="arm")
    return LlmBanditPolicy(network, arms, FrozenSetPolicy.of(random_network(shape)))


def probabilities(policy, eligible=None, n=20):
    rows, _ = world(n=n, seed=5)
    w = np.random.default_rng(0).dirichlet([1, 1], n)
    return policy.action_probabilities(rows.embeddings, w, eligible, prompt_tokens=rows.prompt_tokens)


def test_probabilities_are_those_of_eligible_models(policy):
    eligible = np.random.default_rng(0).random((20, 6)) < 0.5
    eligible[:, 2] = True
    p = probabilities(policy, eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert (p[~eligible] == 0.0).all()
    with pytest.raises(ValueError, match="no eligible model"):
        probabilities(policy, np.zeros((20, 6), bool))


def test_over_the_dial_it_decides_as_at_each_setting(policy):
    x, tokens = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32), np.arange(20) + 5.0
    dial = np.array([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]], dtype=np.float32)
    alone = [policy.action_probabilities(x, np.tile(w, (20, 1)), prompt_tokens=tokens) for w in dial]
    np.testing.assert_array_equal(list(policy.over_dial(x, dial, prompt_tokens=tokens)), alone)


@pytest.mark.parametrize(
    ("shape", "dial", "message"),
    [((4, 8), np.linspace(0, 1, 3), "dial has shape"), ((4, 7), np.eye(2), "embeddings have shape")],
)
def test_over_the_dial_wrong_shapes_are_refused(policy, shape, dial, message):
    with pytest.raises(ValueError, match=message):
        next(iter(policy.over_dial(np.zeros(shape, np.float32), dial)))


def test_ineligible_models_are_no_candidates(policy):
    """Deciding among some of the pool is what a policy over that smaller pool does."""
    kept = [0, 2, 5]
    eligible = np.zeros((20, 6), bool)
    eligible[:, kept] = True
    smaller = probabilities(policy.with_arms(policy.arms.take(kept)))
    np.testing.assert_allclose(probabilities(policy, eligible)[:, kept], smaller, atol=1e-5)


def test_the_order_of_the_pool_does_not_matter(policy):
    order = [3, 1, 5, 0, 2, 4]
    np.testing.assert_allclose(
        probabilities(policy.with_arms(policy.arms.take(order))), probabilities(policy)[:, order], atol=1e-5
    )


def test_a_larger_pool_needs_no_further_weight(policy):
    extra = policy.arms.take([1, 2])
    renamed = Arms(("a", "b"), *(getattr(extra, f) for f in list(Arms.__dataclass_fields__)[1:]))
    larger = policy.with_arms(policy.arms.with_arms(renamed))
    assert probabilities(larger).shape == (20, 8)
    assert larger.decider is policy.decider
    assert larger.network is policy.network
    with pytest.raises(ValueError, match="already has"):
        larger.arms.with_arms(extra)


def test_saved_and_loaded_it_decides_alike(policy, tmp_path):
    policy.save(tmp_path)
    loaded = LlmBanditPolicy.load(tmp_path, policy.models)
    np.testing.assert_array_equal(probabilities(loaded), probabilities(policy))
    with pytest.raises(InputError, match="6 identity vectors for 2 models"):
        LlmBanditPolicy.load(tmp_path, ("a", "b"))


def test_a_folder_without_a_policy_is_named(tmp_path):
    with pytest.raises(InputError, match=r"llm_bandit\.json"):
        LlmBanditPolicy.load(tmp_path, ("a",))


def test_a_batch_decides_as_its_rows_do(policy):
    rows, _ = world(n=9, seed=6)
    w = np.tile([0.6, 0.4], (9, 1))
    together = policy.action_probabilities(rows.embeddings, w)
    alone = [policy.action_probabilities(rows.embeddings[i : i + 1], w[:1])[0] for i in range(9)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_deciding_imports_neither_torch_nor_ray(policy, tmp_path):
    import subprocess
    import sys

    policy.save(tmp_path)
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from policies.llm_bandit.policy import LlmBanditPolicy as P;"
        f"p = P.load(Path({str(tmp_path)!r}), {policy.models!r});"
        "p.action_probabilities(np.zeros((1, 8), np.float32), np.array([[0.5, 0.5]]));"
        "assert not {'torch', 'ray', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scoring_network_is_frozen_data(policy):
    assert isinstance(policy.network, ScoringNetwork)
    with pytest.raises(AttributeError):
        policy.network.length_std = 2.0
