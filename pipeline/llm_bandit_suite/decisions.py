"""A set policy's greedy decisions over the whole dial at once: the set is encoded once for all preferences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from policies.datasets import OutcomeMatrix
from policies.llm_bandit.identity_vectors import Predictions, predict
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape
from policies.preference import preferences_from_w_cost

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CHUNK_ROWS = 512


def predictions(policy: LlmBanditPolicy, data: OutcomeMatrix) -> Predictions:
    """Return the predicted outcomes of the policy's models, shape (n, K)."""
    inputs = policy.network.inputs(data.embeddings, data.prompt_tokens)
    return predict(policy.network, policy.arms, inputs, data.prompt_tokens)


def dial_choices(
    policy: LlmBanditPolicy, data: OutcomeMatrix, w_cost: FloatArray, *, cost_terms: FloatArray | None = None
) -> IntArray:
    """Return the most probable of the policy's own models at each setting of the dial, shape (S, n).

    Args:
        policy: its models are all candidates.
        data: n prompts; only their vectors and lengths are read.
        w_cost: shape (S,).
        cost_terms: shape (n, K), what the policy is told that calls cost, in units of tau; None: what it predicts.
    """
    predicted = predictions(policy, data)
    if cost_terms is not None:
        predicted = predicted._replace(cost_terms=cost_terms)
    tokens = policy.candidates(predicted)
    inputs = torch.from_numpy(policy.network.inputs(data.embeddings, data.prompt_tokens))
    network = _network(policy)
    w = torch.from_numpy(preferences_from_w_cost(w_cost).astype(np.float32))
    chosen = []
    with torch.no_grad():
        for start in range(0, len(tokens), CHUNK_ROWS):
            arms = torch.from_numpy(tokens[start : start + CHUNK_ROWS])
            mask = torch.ones(arms.shape[:2], dtype=torch.bool)
            logits, _ = network(inputs[start : start + CHUNK_ROWS], arms, mask, w.expand(len(arms), -1, -1))
            chosen.append(logits.argmax(dim=2).numpy())
    return np.concatenate(chosen).T


def translated(w_cost: FloatArray, from_tau_usd: float, to_tau_usd: float) -> FloatArray:
    """Return the dial settings that mean the same exchange of quality for USD under another cost scale, shape (S,)."""
    w = np.asarray(w_cost, dtype=np.float64)
    scaled = w * to_tau_usd / from_tau_usd
    return np.asarray(scaled / (1.0 - w + scaled))


def _network(policy: LlmBanditPolicy) -> SetPolicyNetwork:
    network = SetPolicyNetwork(SetShape(**policy.decider.shape))
    weights = {name: torch.from_numpy(np.array(value)) for name, value in policy.decider.weights.items()}
    found = network.load_state_dict(weights, strict=False)
    # The artifact has no value function: it served training alone.
    absent = [name for name in found.missing_keys if not name.startswith("value_")]
    if absent or found.unexpected_keys:
        raise ValueError(f"weights {absent} are missing, {found.unexpected_keys} are not known")
    return network.eval()
