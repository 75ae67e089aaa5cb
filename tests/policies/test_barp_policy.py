import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.policy import BarpPolicy
from policies.errors import InputError
from policies.preference import dial_grid, preferences_from_w_cost

MODELS = ("small", "middle", "large")
HEADS = ("mlp", "linear", "bilinear")


def make_policy(head="mlp", dropout=0.5, seed=0):
    torch.manual_seed(seed)
    network = BarpNetwork(
        NetworkShape(8, 3, head=head, hidden=(16, 8), preference_dim=4, dropout=dropout, input_std=1.0)
    )
    network.standardise(torch.randn(50, 8) * 0.05 + 0.1)
    return BarpPolicy(MODELS, network)


def inputs(n=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8)).astype(np.float32) * 0.05, preferences_from_w_cost(rng.random(n))


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_probabilities_sum_to_one_over_eligible_models(head, seed):
    rng = np.random.default_rng(seed)
    embeddings, preferences = inputs(seed=seed)
    eligible = rng.random((20, 3)) < 0.5
    eligible[np.arange(20), rng.integers(0, 3, 20)] = True
    p = make_policy(head).action_probabilities(embeddings, preferences, eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
    assert (p[~eligible] == 0.0).all()
    assert (p >= 0.0).all()


@pytest.mark.parametrize("head", HEADS)
def test_saved_policy_decides_identically(head, tmp_path):
    policy = make_policy(head)
    policy.save(tmp_path)
    loaded = BarpPolicy.load(tmp_path, MODELS)
    embeddings, preferences = inputs()
    np.testing.assert_array_equal(
        loaded.action_probabilities(embeddings, preferences),
        policy.action_probabilities(embeddings, preferences),
    )


def test_artifact_holds_no_pickle(tmp_path):
    make_policy().save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"network.json", "network.safetensors"}


def test_incomplete_artifact_is_named(tmp_path):
    make_policy().save(tmp_path)
    (tmp_path / "network.safetensors").unlink()
    with pytest.raises(InputError, match=r"network\.safetensors"):
        BarpPolicy.load(tmp_path, MODELS)


@pytest.mark.parametrize("head", HEADS)
def test_dial_logits_equal_the_plain_forward(head):
    network = make_policy(head).network
    embeddings, _ = inputs()
    w = preferences_from_w_cost(dial_grid())
    whole = network.dial_logits(torch.from_numpy(embeddings), torch.from_numpy(w)).numpy()
    for j in range(len(w)):
        rows = torch.from_numpy(np.repeat(w[j : j + 1], len(embeddings), axis=0))
        np.testing.assert_allclose(
            whole[:, j], network(torch.from_numpy(embeddings), rows).numpy(), atol=1e-5
        )


def test_dropout_does_not_touch_decisions():
    policy = make_policy(dropout=0.9)
    embeddings, preferences = inputs()
    first = policy.action_probabilities(embeddings, preferences)
    np.testing.assert_array_equal(first, policy.action_probabilities(embeddings, preferences))


@pytest.mark.parametrize("head", ["mlp", "bilinear"])
def test_preference_changes_decisions_per_prompt(head):
    policy = make_policy(head)
    embeddings, _ = inputs()
    quality, cost = (
        np.log(policy.action_probabilities(embeddings, preferences_from_w_cost(w, 20))) for w in (0.0, 1.0)
    )
    shift = (quality - quality[:, :1]) - (cost - cost[:, :1])
    assert np.ptp(shift, axis=0)[1:].min() > 1e-6


def test_wrong_shapes_are_refused():
    policy = make_policy()
    embeddings, preferences = inputs()
    with pytest.raises(ValueError, match="embeddings"):
        policy.action_probabilities(embeddings[:, :5], preferences)
    with pytest.raises(ValueError, match="preferences"):
        policy.action_probabilities(embeddings, preferences[:5])
    with pytest.raises(ValueError, match="3 models"):
        BarpPolicy(("one",), policy.network)
