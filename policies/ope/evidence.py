"""Paired evidence for a candidate against an incumbent: one difference per event (or prompt) and dial setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from policies.ope.logged import Float64Array, FloatArray, LoggedBandit, LoggedOutcomes
from policies.ope.outcome_regression import OutcomePredictions
from policies.preference import reward

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on; arrays of shape (n, S), or (n,) after :meth:`over_dial` and :meth:`setting`.

    Attributes:
        contributions: candidate minus incumbent, in units of reward; their mean estimates the gain.
        candidate_weights: importance weights of the candidate; 1 where outcomes are known.
        incumbent_weights: the same of the incumbent.
        leverage: how much an event says of the difference: the difference of the weights, or, where outcomes
            are known, whether the decisions differ.
        unsupported: mass that either policy gives to thinly logged models, the larger of the two.
        policies_differ: where the two policies decide otherwise.
        explored: shape (n,), whether another model could have been logged (propensity below 1).
        groups: shape (n,), rows with one label depend on one another.
        largest_weight: bound of the weights, 0 where none are used.
    """

    contributions: Float64Array
    candidate_weights: Float64Array
    incumbent_weights: Float64Array
    leverage: Float64Array
    unsupported: Float64Array
    policies_differ: BoolArray
    explored: BoolArray
    groups: npt.NDArray[np.int64]
    largest_weight: float

    def over_dial(self) -> Evidence:
        """Return the evidence of the mean over the dial's settings."""
        return self._settings(lambda table: table.mean(axis=1), np.asarray(self.policies_differ.any(axis=1)))

    def setting(self, s: int) -> Evidence:
        """Return the evidence at one setting."""
        return self._settings(lambda table: table[:, s], self.policies_differ[:, s])

    def rows(self, mask: BoolArray) -> Evidence:
        """Return the evidence of some events."""
        part = self._settings(lambda table: table[mask], self.policies_differ[mask])
        return replace(part, explored=self.explored[mask], groups=self.groups[mask])

    def _settings(self, view: Callable[[Float64Array], Float64Array], differ: BoolArray) -> Evidence:
        return replace(
            self,
            contributions=view(self.contributions),
            candidate_weights=view(self.candidate_weights),
            incumbent_weights=view(self.incumbent_weights),
            leverage=view(self.leverage),
            unsupported=view(self.unsupported),
            policies_differ=differ,
        )


def paired_contributions(
    log: LoggedOutcomes,
    candidate: FloatArray,
    incumbent: FloatArray,
    predictions: OutcomePredictions,
    w_cost: float,
    tau_usd: float,
) -> Float64Array:
    """Return each event's doubly robust contribution to (candidate - incumbent) at one dial setting, shape
    (n,).

    ``sum_a (pi_c - pi_i)(a) r_hat(i, a) + (pi_c(a_i) - pi_i(a_i)) / p_i (r_i - r_hat(i, a_i))``; the mean
    estimates the difference of mean rewards.

    Args:
        log: n events.
        candidate: shape (n, K), probabilities of the candidate on the logged prompts at this setting.
        incumbent: shape (n, K).
        predictions: cross-fitted outcomes of the same events.
        w_cost: the dial setting.
        tau_usd: cost scale of the reward in USD.
    """
    view = log.at_preference(w_cost, tau_usd)
    ours, theirs = view.checked_target(candidate), view.checked_target(incumbent)
    r_hat = view.checked_predictions(predictions.rewards(w_cost, tau_usd), ours.shape[1])
    return _doubly_robust(view, ours - theirs, r_hat)


def evidence_of_log(
    log: LoggedOutcomes,
    candidate: FloatArray,
    incumbent: FloatArray | None,
    predictions: OutcomePredictions,
    w_cost: Float64Array,
    tau_usd: float,
    groups: npt.ArrayLike | None,
    min_action_events: int,
) -> Evidence:
    """Return the evidence that a feedback log holds.

    Args:
        log: n events.
        candidate: shape (S, n, K).
        incumbent: shape (S, n, K); None for the policy that logged, whose reward on each event is known.
        predictions: cross-fitted outcomes of the same events.
        w_cost: shape (S,).
        tau_usd: cost scale of the reward in USD.
        groups: shape (n,), one label per event; None: all independent.
        min_action_events: models logged less often count as unsupported.

    Raises:
        ValueError: malformed arrays.
    """
    n = len(log)
    for name, policy in (("candidate", candidate), ("incumbent", incumbent)):
        if policy is not None and (np.ndim(policy) != 3 or np.shape(policy)[:2] != (w_cost.size, n)):
            raise ValueError(f"{name} has shape {np.shape(policy)}: expected ({w_cost.size}, {n}, K)")
    thin = np.bincount(log.actions, minlength=np.shape(candidate)[2]) < min_action_events
    contributions, weights_c, weights_i, unsupported = (np.empty((n, w_cost.size)) for _ in range(4))
    differ = np.empty((n, w_cost.size), dtype=bool)
    at = np.arange(n)
    for s, w in enumerate(w_cost):
        view = log.at_preference(float(w), tau_usd)
        c = view.checked_target(candidate[s])
        r_hat = view.checked_predictions(predictions.rewards(float(w), tau_usd), c.shape[1])
        weights_c[:, s] = c[at, log.actions] / log.propensities
        unsupported[:, s] = c[:, thin].sum(axis=1)
        if incumbent is None:
            # On the logging policy the weights are 1 and the estimate is the reward itself.
            contributions[:, s] = _doubly_robust(view, c, r_hat) - view.rewards
            weights_i[:, s] = 1.0
            differ[:, s] = weights_c[:, s] != 1.0
            continue
        i = view.checked_target(incumbent[s])
        contributions[:, s] = _doubly_robust(view, c - i, r_hat)
        weights_i[:, s] = i[at, log.actions] / log.propensities
        unsupported[:, s] = np.maximum(unsupported[:, s], i[:, thin].sum(axis=1))
        differ[:, s] = (c != i).any(axis=1)
    return Evidence(
        contributions=contributions,
        candidate_weights=weights_c,
        incumbent_weights=weights_i,
        leverage=weights_c - weights_i,
        unsupported=unsupported,
        policies_differ=differ,
        explored=log.propensities < 1.0,
        groups=_labels(groups, n),
        largest_weight=1.0 / float(log.propensities.min()),
    )


def evidence_of_outcomes(
    candidate: FloatArray,
    incumbent: FloatArray,
    scores: FloatArray,
    costs_usd: FloatArray,
    w_cost: Float64Array,
    tau_usd: float,
    groups: npt.ArrayLike | None,
) -> Evidence:
    """Return the evidence of prompts on which every model's outcome is known: plain paired differences.

    Args:
        candidate: shape (S, n, K).
        incumbent: shape (S, n, K).
        scores: shape (n, K), in [0, 1], none missing.
        costs_usd: shape (n, K), USD per call, none missing.
        w_cost: shape (S,).
        tau_usd: cost scale of the reward in USD.
        groups: shape (n,), one label per prompt; None: all independent.

    Raises:
        ValueError: malformed arrays or a missing outcome.
    """
    n, k = np.shape(scores)
    for name, policy in (("candidate", candidate), ("incumbent", incumbent)):
        if np.shape(policy) != (w_cost.size, n, k):
            raise ValueError(f"{name} has shape {np.shape(policy)}: expected ({w_cost.size}, {n}, {k})")
    if not (np.isfinite(scores).all() and np.isfinite(costs_usd).all()):
        raise ValueError("scores and costs_usd must be known for every prompt and model")
    shift = np.asarray(candidate, dtype=np.float64) - incumbent
    contributions = np.empty((n, w_cost.size))
    for s, w in enumerate(w_cost):
        preference = np.broadcast_to(np.array([1.0 - w, w]), (n, 2))
        contributions[:, s] = (shift[s] * reward(scores, costs_usd, preference, tau_usd)).sum(axis=1)
    differ = (shift != 0.0).any(axis=2).T
    ones = np.ones_like(contributions)
    return Evidence(
        contributions=contributions,
        candidate_weights=ones,
        incumbent_weights=ones,
        leverage=differ.astype(np.float64),
        unsupported=np.zeros_like(contributions),
        policies_differ=differ,
        explored=np.ones(n, dtype=bool),
        groups=_labels(groups, n),
        largest_weight=0.0,
    )


def _doubly_robust(view: LoggedBandit, shift: Float64Array, r_hat: Float64Array) -> Float64Array:
    at = np.arange(len(view))
    weights = shift[at, view.actions] / view.propensities
    total: Float64Array = (shift * r_hat).sum(axis=1) + weights * (view.rewards - r_hat[at, view.actions])
    return total


def _labels(groups: npt.ArrayLike | None, n: int) -> npt.NDArray[np.int64]:
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.shape != (n,):
        raise ValueError(f"groups has shape {labels.shape}: expected ({n},), one per event")
    return labels.astype(np.int64)
