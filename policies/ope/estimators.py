"""Off-policy estimators of a target policy's mean reward from logged bandit feedback.

Notation: logged action a_i with propensity p_i and reward r_i, target pi_e, weight v_i = pi_e(a_i | x_i) /
    p_i,
cross-fitted predictions r_hat(i, a), DM_i = sum_a pi_e(a | x_i) r_hat(i, a). Every estimator returns one
contribution per event whose plain mean is the estimate, so that the interval of an estimate, or of the
difference of two policies on the same events, is the interval of a mean. For the self-normalised estimators,
which are ratios, the contributions are the linearisation (influence function) around the estimate.

Sources: Dudik et al., "Doubly Robust Policy Evaluation and Learning" (2011); Swaminathan and Joachims, "The
Self-Normalized Estimator for Counterfactual Learning" (2015); Wang et al., "Optimal and Adaptive Off-policy
Evaluation in Contextual Bandits" (2017, Switch-DR).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.ope.logged import Float64Array, FloatArray, LoggedBandit

DEFAULT_CLIP = 20.0
DEFAULT_SWITCH = 20.0
"""Above the weight that a uniform log over up to twenty models gives; a lower bound would cut every event there."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of a policy's mean reward.

    Attributes:
        name: of the estimator.
        value: the estimate, in units of reward.
        contributions: shape (n,), one per event; their mean is ``value``.
    """

    name: str
    value: float
    contributions: Float64Array


def ips(log: LoggedBandit, target: FloatArray) -> Estimate:
    """Inverse propensity scoring, ``mean(v r)``: unbiased where the log covers the target, high variance.

    Args:
        log: n events.
        target: shape (n, K), the target's probabilities for the logged prompts.
    """
    return _mean("IPS", log.weights(target) * log.rewards)


def clipped_ips(log: LoggedBandit, target: FloatArray, clip: float = DEFAULT_CLIP) -> Estimate:
    """IPS with weights cut at ``clip``, ``mean(min(v, clip) r)``: biased towards 0, less variance.

    Raises:
        ValueError: ``clip`` is not positive.
    """
    _positive("clip", clip)
    return _mean("clipped IPS", np.minimum(log.weights(target), clip) * log.rewards)


def snips(log: LoggedBandit, target: FloatArray) -> Estimate:
    """Self-normalised IPS, ``sum(v r) / sum(v)``: consistent, bounded by the rewards.

    Raises:
        ValueError: the target never takes a logged action (all weights are 0).
    """
    v = log.weights(target)
    scale = _mean_weight(v)
    value = float((v * log.rewards).sum() / v.sum())
    return Estimate("SNIPS", value, value + v * (log.rewards - value) / scale)


def direct_method(log: LoggedBandit, target: FloatArray, predicted_rewards: FloatArray) -> Estimate:
    """Direct method, ``mean_i sum_a pi_e(a | x_i) r_hat(i, a)``: as good as the predictions, biased with
    them.

    Args:
        log: n events.
        target: shape (n, K).
        predicted_rewards: shape (n, K), cross-fitted (see `policies.ope.outcome_regression`).
    """
    return _mean("DM", _direct(log, target, predicted_rewards)[0])


def doubly_robust(log: LoggedBandit, target: FloatArray, predicted_rewards: FloatArray) -> Estimate:
    """Doubly robust, ``DM + mean(v (r - r_hat(i, a_i)))``: unbiased with true propensities whatever r_hat
    is."""
    direct, residual = _direct(log, target, predicted_rewards)
    return _mean("DR", direct + log.weights(target) * residual)


def self_normalised_doubly_robust(
    log: LoggedBandit, target: FloatArray, predicted_rewards: FloatArray
) -> Estimate:
    """SNDR, ``DM + sum(v (r - r_hat)) / sum(v)``.

    Raises:
        ValueError: the target never takes a logged action (all weights are 0).
    """
    direct, residual = _direct(log, target, predicted_rewards)
    v = log.weights(target)
    scale = _mean_weight(v)
    correction = float((v * residual).sum() / v.sum())
    return _mean("SNDR", direct + correction + v * (residual - correction) / scale)


def switch_doubly_robust(
    log: LoggedBandit, target: FloatArray, predicted_rewards: FloatArray, switch: float = DEFAULT_SWITCH
) -> Estimate:
    """Switch-DR, ``DM + mean(v (r - r_hat) 1[v <= switch])``: trusts r_hat where the weight is large.

    ``switch`` 0 gives DM, infinity gives DR.

    Raises:
        ValueError: ``switch`` is negative or NaN.
    """
    if not switch >= 0.0:
        raise ValueError(f"switch is {switch}: must be >= 0")
    direct, residual = _direct(log, target, predicted_rewards)
    v = log.weights(target)
    return _mean("Switch-DR", direct + np.where(v <= switch, v * residual, 0.0))


def all_estimates(
    log: LoggedBandit,
    target: FloatArray,
    predicted_rewards: FloatArray,
    clip: float = DEFAULT_CLIP,
    switch: float = DEFAULT_SWITCH,
) -> dict[str, Estimate]:
    """Return every estimator's estimate by name; the self-normalised ones are left out when all weights are
    0."""
    estimates = [ips(log, target), clipped_ips(log, target, clip)]
    if log.weights(target).any():
        estimates += [snips(log, target), self_normalised_doubly_robust(log, target, predicted_rewards)]
    estimates += [
        direct_method(log, target, predicted_rewards),
        doubly_robust(log, target, predicted_rewards),
        switch_doubly_robust(log, target, predicted_rewards, switch),
    ]
    return {estimate.name: estimate for estimate in estimates}


def _direct(
    log: LoggedBandit, target: FloatArray, predicted_rewards: FloatArray
) -> tuple[Float64Array, Float64Array]:
    p = log.checked_target(target)
    r_hat = log.checked_predictions(predicted_rewards, p.shape[1])
    return (p * r_hat).sum(axis=1), log.rewards - r_hat[np.arange(len(log)), log.actions]


def _mean(name: str, contributions: Float64Array) -> Estimate:
    return Estimate(name, float(contributions.mean()), contributions)


def _mean_weight(weights: Float64Array) -> float:
    if not weights.any():
        raise ValueError("the target never takes a logged action: a self-normalised estimate is undefined")
    return float(weights.mean())


def _positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{name} is {value}: must be positive")
