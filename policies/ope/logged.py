"""The logged bandit data that every estimator takes, checked once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.preference import reward

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

ROW_SUM_TOLERANCE = 1e-4
"""Largest departure of a target's row from one; float32 softmaxes stay below."""


@dataclass(frozen=True)
class LoggedBandit:
    """One reward per event: the model that was called, how probable that was, what it earned.

    Attributes:
        actions: shape (n,), index of the logged model, 0 .. K - 1.
        propensities: shape (n,), probability with which the logging policy chose it, in (0, 1].
        rewards: shape (n,), reward at the evaluated preference, recomputed from score and cost.

    Raises:
        ValueError: shapes differ or are empty, a reward is not finite (drop events without a score first), a
            propensity lies outside (0, 1], an action is negative.
    """

    actions: IntArray
    propensities: FloatArray
    rewards: FloatArray

    def __post_init__(self) -> None:
        actions = np.asarray(self.actions)
        propensities = np.asarray(self.propensities, dtype=np.float64)
        rewards = np.asarray(self.rewards, dtype=np.float64)
        if (
            actions.ndim != 1
            or not (actions.shape == propensities.shape == rewards.shape)
            or actions.size == 0
        ):
            raise ValueError(
                f"actions {actions.shape}, propensities {propensities.shape} and rewards {rewards.shape} "
                "must have one shape (n,), n >= 1"
            )
        if not np.issubdtype(actions.dtype, np.integer) or actions.min() < 0:
            raise ValueError("actions must be integers >= 0")
        _check("propensities", propensities, (propensities > 0.0) & (propensities <= 1.0), "lie in (0, 1]")
        _check("rewards", rewards, np.isfinite(rewards), "be finite (drop events without a score or cost)")
        object.__setattr__(self, "actions", actions.astype(np.int64))
        object.__setattr__(self, "propensities", propensities)
        object.__setattr__(self, "rewards", rewards)

    def __len__(self) -> int:
        return self.actions.size

    def checked_target(self, target: FloatArray) -> Float64Array:
        """Return the target's probabilities, shape (n, K), as float64.

        Raises:
            ValueError: wrong shape, a logged action beyond K, a value outside [0, 1], a row not summing to
                one.
        """
        p = np.asarray(target, dtype=np.float64)
        if p.ndim != 2 or p.shape[0] != len(self):
            raise ValueError(f"target probabilities have shape {p.shape}: expected ({len(self)}, K)")
        if self.actions.max() >= p.shape[1]:
            raise ValueError(
                f"logged action {self.actions.max()} lies beyond the target's {p.shape[1]} models"
            )
        rows = ((p >= 0.0) & (p <= 1.0 + ROW_SUM_TOLERANCE)).all(axis=1)
        rows &= np.abs(p.sum(axis=1) - 1.0) <= ROW_SUM_TOLERANCE
        _check("target probabilities", p, rows, "lie in [0, 1] and sum to 1")
        return p

    def checked_predictions(self, predicted_rewards: FloatArray, n_models: int) -> Float64Array:
        """Return the predicted rewards, shape (n, K), as float64.

        Raises:
            ValueError: wrong shape or a value that is not finite.
        """
        r = np.asarray(predicted_rewards, dtype=np.float64)
        if r.shape != (len(self), n_models):
            raise ValueError(f"predicted rewards have shape {r.shape}: expected ({len(self)}, {n_models})")
        _check("predicted rewards", r, np.isfinite(r).all(axis=1), "be finite")
        return r

    def weights(self, target: FloatArray) -> Float64Array:
        """Return the importance weights ``v_i = pi_e(a_i | x_i) / p_i``, shape (n,)."""
        p = self.checked_target(target)
        return p[np.arange(len(self)), self.actions] / self.propensities


@dataclass(frozen=True)
class LoggedOutcomes:
    """Events with score and cost kept apart, so that one log answers for every preference.

    Attributes:
        actions: shape (n,), index of the logged model, 0 .. K - 1.
        propensities: shape (n,), probability with which the logging policy chose it, in (0, 1].
        scores: shape (n,), in [0, 1].
        costs_usd: shape (n,), USD per call, >= 0.

    Raises:
        ValueError: shapes differ, or a value is missing or out of range (drop events without a score first).
    """

    actions: IntArray
    propensities: FloatArray
    scores: FloatArray
    costs_usd: FloatArray

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        costs = np.asarray(self.costs_usd, dtype=np.float64)
        # The one-reward view checks shapes, actions and propensities.
        view = LoggedBandit(self.actions, self.propensities, scores)
        if costs.shape != scores.shape:
            raise ValueError(f"costs_usd has shape {costs.shape}: expected {scores.shape}, one per event")
        _check("scores", scores, (scores >= 0.0) & (scores <= 1.0), "lie in [0, 1]")
        _check("costs_usd", costs, np.isfinite(costs) & (costs >= 0.0), "be finite and >= 0")
        object.__setattr__(self, "actions", view.actions)
        object.__setattr__(self, "propensities", view.propensities)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "costs_usd", costs)

    def __len__(self) -> int:
        return self.actions.size

    def at_preference(self, w_cost: float, tau_usd: float) -> LoggedBandit:
        """Return the events with their reward at one dial setting; ``tau_usd`` is the cost scale in USD."""
        preference = np.broadcast_to(np.array([1.0 - w_cost, w_cost]), (len(self), 2))
        return LoggedBandit(
            self.actions, self.propensities, reward(self.scores, self.costs_usd, preference, tau_usd)
        )


def _check(name: str, values: Float64Array, good: npt.NDArray[np.bool_] | np.bool_, rule: str) -> None:
    if not np.all(good):
        row = int(np.flatnonzero(~np.asarray(good))[0])
        raise ValueError(f"{name} at event {row} is {values[row]}: must {rule}")
