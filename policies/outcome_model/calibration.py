"""What is set once the network is trained: the models' mean scores, the spread of costs and their level."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from policies.outcome_model.cost_term import expected_cost_term
from policies.outcome_model.policy import CHUNK_ROWS, OutcomeModelPolicy
from policies.preference import cost_term

FloatArray = npt.NDArray[np.floating]

SIGMA_INFLATION = 1.05
"""Residuals of the training prompts are a little smaller than those of new ones."""

MIN_COSTS = 5
"""With fewer costs than this, a model's own deviation and level are noise; the pool's stand in."""

NEWTON_STEPS = 20
"""At most; three or four are usual."""


@dataclass(frozen=True)
class RevealedOutcomes:
    """The entries of the outcome table that feedback has revealed.

    Attributes:
        embeddings: shape (n, d).
        prompt_tokens: shape (n,).
        scores: shape (n, K); NaN or anything where not revealed.
        costs_usd: shape (n, K).
        log_output_costs: shape (n, K), log USD beyond the prompt's cost.
        revealed: shape (n, K).
    """

    embeddings: FloatArray
    prompt_tokens: FloatArray
    scores: FloatArray
    costs_usd: FloatArray
    log_output_costs: FloatArray
    revealed: npt.NDArray[np.bool_]


def calibrated(policy: OutcomeModelPolicy, data: RevealedOutcomes) -> tuple[OutcomeModelPolicy, FloatArray]:
    """Return the policy with means, deviations and cost levels set, and the models' mean scores, shape (K,)."""
    outputs = np.concatenate(
        [
            policy.outputs(data.embeddings[i : i + CHUNK_ROWS], data.prompt_tokens[i : i + CHUNK_ROWS])
            for i in range(0, len(data.embeddings), CHUNK_ROWS)
        ],
        axis=1,
    )
    logits = outputs[..., : len(policy.models)]
    means = _mean_scores(logits, data)
    head_bias = policy.head_bias.copy()
    head_bias[..., : len(policy.models)] += bias_for_means(logits, means)
    sigma, ratio = _cost_calibration(policy, policy.log_output_costs(outputs), data)
    return replace(policy, head_bias=head_bias, sigma=sigma, recalibration=ratio), means


def _mean_scores(logits: FloatArray, data: RevealedOutcomes) -> npt.NDArray[np.float64]:
    """Return mean scores over all prompts: predicted plus mean residual, shrunk towards what models share."""
    predicted = np.mean([expit(member) for member in logits], axis=0, dtype=np.float64)
    seen = data.revealed & np.isfinite(data.scores)
    count = seen.sum(axis=0)
    residual = np.where(seen, np.nan_to_num(data.scores) - predicted, 0.0)
    means = predicted.mean(axis=0) + residual.sum(axis=0) / np.maximum(count, 1)
    noise = (residual**2).sum() / max(1, count.sum())
    with np.errstate(divide="ignore"):
        return shrunken_means(means, noise / count)


def shrunken_means(means: FloatArray, variances: FloatArray) -> npt.NDArray[np.float64]:
    """Return means drawn towards their common mean as far as they are noise (empirical Bayes).

    The best of several noisy means looks better than it is, and a router calls the best. With the spread of the
    true means ``s^2 = max(var(means) - mean(variances), 0)``, a mean keeps the share ``1 - f v / (s^2 + v)`` of
    its distance; ``f = (K - 3) / (K - 1)`` leaves two or three models alone, from which no spread can be told
    (Efron & Morris 1973).

    Args:
        means: shape (K,).
        variances: shape (K,), of the means; infinite for a model never seen, which takes the common mean.
    """
    known = np.isfinite(variances)
    k = int(known.sum())
    if k == 0:
        return np.array(means, dtype=np.float64)
    v = np.where(known, variances, 0.0)
    spread = max(float(means[known].var(ddof=1) - v[known].mean()), 0.0) if k > 1 else 0.0
    weight = 1.0 / np.maximum(spread + v[known], 1e-12)
    common = float((weight * means[known]).sum() / weight.sum())
    factor = max(0.0, (k - 3) / (k - 1)) if k > 1 else 0.0
    kept = np.where(known, 1.0 - factor * v / np.maximum(spread + v, 1e-12), 0.0)
    return common + kept * (np.asarray(means, dtype=np.float64) - common)


def bias_for_means(logits: FloatArray, means: FloatArray) -> npt.NDArray[np.float32]:
    """Return what to add to each model's logits, shape (K,), so that its mean probability is ``means``.

    Args:
        logits: shape (members, n, K).
        means: shape (K,); kept within [0.001, 0.999].
    """
    wanted = np.clip(means, 1e-3, 1.0 - 1e-3)
    shift = np.zeros(logits.shape[2])
    for _ in range(NEWTON_STEPS):
        level, slope = np.zeros_like(shift), np.zeros_like(shift)
        for member in logits:
            p = expit(member + shift)
            level += p.mean(axis=0) / len(logits)
            slope += (p * (1.0 - p)).mean(axis=0) / len(logits)
        if np.abs(wanted - level).max() < 1e-7:
            break
        # In steps of at most 1: far out the slope is nearly 0.
        shift += np.clip((wanted - level) / np.maximum(slope, 1e-6), -1.0, 1.0)
    return shift.astype(np.float32)


def _cost_calibration(
    policy: OutcomeModelPolicy, log_costs: FloatArray, data: RevealedOutcomes
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return residual deviations and ratios of observed to predicted cost terms, both of shape (K,)."""
    seen = data.revealed & np.isfinite(data.costs_usd)
    count = seen.sum(axis=0)
    residual = np.where(seen, data.log_output_costs - log_costs, 0.0)
    pooled = np.sqrt((residual**2).sum() / max(1, seen.sum()))
    own = np.sqrt((residual**2).sum(axis=0) / np.maximum(count, 1))
    sigma = np.maximum(SIGMA_INFLATION * np.where(count >= MIN_COSTS, own, pooled), 1e-3)
    prompt_cost = data.prompt_tokens[:, None] * policy.input_price_per_token_usd
    predicted = np.where(seen, expected_cost_term(log_costs, sigma, prompt_cost, policy.tau_usd), 0.0)
    observed = np.where(seen, cost_term(np.nan_to_num(data.costs_usd), policy.tau_usd), 0.0)
    ratio = observed.sum(axis=0) / np.maximum(predicted.sum(axis=0), 1e-12)
    return sigma, np.where(count >= MIN_COSTS, ratio, 1.0)
