"""What a router earns at each dial setting, and how that compares with fixed models and with the oracle.

Outcome tables are ``scores`` and ``costs_usd`` of shape (n, K) without missing values; a router is
``probabilities`` of shape (S, n, K), one slice per dial setting (a deterministic router is one-hot).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.metrics.tables import (
    Float64Array,
    FloatArray,
    IntArray,
    checked_dial,
    checked_outcomes,
    checked_probabilities,
)
from policies.preference import cost_term, reward


class DialPoints(NamedTuple):
    """Mean quality (score) and mean cost (USD per call) at each dial setting, both of shape (S,)."""

    quality: Float64Array
    cost_usd: Float64Array


def dial_points(probabilities: FloatArray, scores: FloatArray, costs_usd: FloatArray) -> DialPoints:
    """Return the router's expected quality and cost at each dial setting.

    Raises:
        ValueError: a missing outcome or malformed array (see `checked_outcomes`, `checked_probabilities`).
    """
    q, c = checked_outcomes(scores, costs_usd)
    p = checked_probabilities(probabilities, *q.shape)
    n = q.shape[0]
    return DialPoints(np.einsum("snk,nk->s", p, q) / n, np.einsum("snk,nk->s", p, c) / n)


def rewards_at(scores: FloatArray, costs_usd: FloatArray, w_cost: float, tau_usd: float) -> Float64Array:
    """Return the reward of every (prompt, model) at one dial setting, shape (n, K)."""
    preference = np.broadcast_to(np.array([1.0 - w_cost, w_cost]), (np.shape(scores)[0], 2))
    return reward(scores, costs_usd, preference, tau_usd)


def mean_rewards(
    probabilities: FloatArray, scores: FloatArray, costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> Float64Array:
    """Return the router's mean reward at each dial setting, shape (S,).

    ``mean_i sum_m p(m | i, s) ((1 - w_s) q_im - w_s min(c_im / tau, 1))``.

    Args:
        probabilities: shape (S, n, K).
        scores: shape (n, K).
        costs_usd: shape (n, K), USD per call.
        w_cost: shape (S,), rising, in [0, 1].
        tau_usd: cost scale in USD (95th percentile of the training costs).
    """
    q, c = checked_outcomes(scores, costs_usd)
    p = checked_probabilities(probabilities, *q.shape)
    w = checked_dial(w_cost, p.shape[0])
    return np.array([(p_s * rewards_at(q, c, w_s, tau_usd)).sum(axis=1).mean() for p_s, w_s in zip(p, w)])


def mean_reward(
    probabilities: FloatArray, scores: FloatArray, costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> float:
    """Return the mean reward over the dial grid and the prompts, the headline figure."""
    return float(mean_rewards(probabilities, scores, costs_usd, w_cost, tau_usd).mean())


def best_single_choices(
    train_scores: FloatArray, train_costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> npt.NDArray[np.int64]:
    """Return the best fixed model at each dial setting, shape (S,), by mean reward on the *training* split.

    Args:
        train_scores: shape (n, K).
        train_costs_usd: shape (n, K), USD per call.
        w_cost: shape (S,).
        tau_usd: cost scale in USD.
    """
    q, c = checked_outcomes(train_scores, train_costs_usd)
    w = checked_dial(w_cost)[:, None]
    # The reward is linear in (q, min(c / tau, 1)): its mean is the reward of the means.
    by_model = (1.0 - w) * q.mean(axis=0) - w * cost_term(c, tau_usd).mean(axis=0)
    return by_model.argmax(axis=1)


def single_model_rewards(
    choices: IntArray, scores: FloatArray, costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> Float64Array:
    """Return the mean reward at each dial setting of the fixed models ``choices``, shape (S,)."""
    q, c = checked_outcomes(scores, costs_usd)
    picks = np.asarray(choices)
    w = checked_dial(w_cost, picks.size)
    return (1.0 - w) * q.mean(axis=0)[picks] - w * cost_term(c, tau_usd).mean(axis=0)[picks]


def oracle_choices(
    scores: FloatArray, costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> npt.NDArray[np.int64]:
    """Return the model with the best reward for each dial setting and prompt, shape (S, n)."""
    q, c = checked_outcomes(scores, costs_usd)
    return np.stack([rewards_at(q, c, w, tau_usd).argmax(axis=1) for w in checked_dial(w_cost)])


def oracle_rewards(
    scores: FloatArray, costs_usd: FloatArray, w_cost: FloatArray, tau_usd: float
) -> Float64Array:
    """Return the oracle's mean reward at each dial setting, shape (S,): no router can earn more."""
    q, c = checked_outcomes(scores, costs_usd)
    return np.array([rewards_at(q, c, w, tau_usd).max(axis=1).mean() for w in checked_dial(w_cost)])


def regret(rewards: FloatArray, reference_rewards: FloatArray) -> float:
    """Return the mean over the dial of (reference - router) reward, both of shape (S,).

    Against the oracle it is >= 0; against the best single model per preference a good router's is negative.
    """
    return float(np.mean(np.asarray(reference_rewards) - np.asarray(rewards)))


def gap_closed(mean_reward_router: float, mean_reward_best_single: float, mean_reward_oracle: float) -> float:
    """Return (router - best single) / (oracle - best single), on mean reward; NaN without a gap."""
    gap = mean_reward_oracle - mean_reward_best_single
    return float((mean_reward_router - mean_reward_best_single) / gap) if gap > 0.0 else float("nan")


def action_shares(probabilities: FloatArray) -> Float64Array:
    """Return the share of prompts sent to each model at each dial setting, shape (S, K)."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[None] if p.ndim == 2 else p
    p = checked_probabilities(p, *p.shape[1:])
    return p.mean(axis=1)


def action_entropy(shares: FloatArray) -> Float64Array:
    """Return the entropy of action shares over the log of the number of models.

    1 where all models are called equally often, 0 where the router has collapsed onto one.

    Args:
        shares: shape (..., K), rows summing to one.

    Returns:
        Shape (...). With one model it is 0.
    """
    p = np.asarray(shares, dtype=np.float64)
    if p.shape[-1] < 2:
        return np.zeros(p.shape[:-1])
    logs = np.log(np.where(p > 0.0, p, 1.0))
    return -(p * logs).sum(axis=-1) / np.log(p.shape[-1])
