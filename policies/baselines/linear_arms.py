"""Linear bandits on a feedback log: disjoint linear arms in closed form, with three rules of choice.

An arm is a model with two linear regressions, of the score and of the cost term ``min(c / tau, 1)``, on the same
prompt features z. The reward at a preference w, ``w_q z.theta_q - w_c z.theta_c``, is then linear in the
preference-conditioned context ``[w_q z; w_c z]``, and one event teaches about every preference. Plain
concatenation ``[z; w]`` would not let the preference change how the prompt matters.

The posterior of an arm with penalty l is that of Bayesian linear regression: precision ``A = Z'Z + l I``, mean
``A^-1 Z'y``, covariance ``sigma^2 A^-1`` (LinUCB, arXiv 1003.0146, algorithm 1; linear Thompson sampling, arXiv
1209.3352). Online these rules differ in which outcomes they go and see; off a log all are given the same
events, so that what remains different is the choice itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from sklearn.decomposition import PCA

from policies.base import BoolArray, FloatArray, greedy
from policies.baselines.value import ArrayPolicy, Matrix
from policies.datasets import LoggedFeedback
from policies.preference import cost_term

COMPONENTS = 16
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Tried by leave-one-out error over all arms; features have a total variance of one."""

QUADRATURE_POINTS = 128
DEVIATIONS = 6.0
CHUNK_ROWS = 512


@dataclass(frozen=True)
class LinearArmsPolicy(ArrayPolicy):
    """The arms' posterior; subclasses choose from it.

    Attributes:
        centre: shape (d,); ``basis`` (d, p - 1): features are ``[(e - centre) basis; 1]``.
        means: shape (n_models, p, 2), posterior means of the score's and the cost term's weights.
        covariances: shape (n_models, p, p), ``A^-1``.
        offsets: shape (2,), mean score and cost term over all events: what an arm without events predicts.
        noise: shape (2,), residual standard deviation of score and cost term.
        parameter: scalar of the rule of choice.
    """

    centre: Matrix
    basis: Matrix
    means: Matrix
    covariances: Matrix
    offsets: Matrix
    noise: Matrix
    parameter: Matrix

    @classmethod
    def _fit(
        cls,
        log: LoggedFeedback,
        tau_usd: float,
        components: int,
        penalties: Sequence[float],
        parameter: float,
    ) -> Self:
        events = log.scored()
        if len(events) == 0:
            raise ValueError(f"none of {len(log)} events has a score and a cost")
        k = len(log.pool.models)
        x = events.embeddings.astype(np.float64)
        pca = PCA(min(components, *x.shape), random_state=0).fit(x)
        spread = float(np.sqrt(pca.explained_variance_.sum())) if len(x) > 1 else 0.0
        basis = pca.components_.T / (spread or 1.0)
        z = np.hstack([(x - pca.mean_) @ basis, np.ones((len(x), 1))])
        y = np.stack([events.scores, cost_term(events.costs_usd, tau_usd)], axis=1)
        offsets = y.mean(axis=0)
        arms = [(z[events.actions == a], y[events.actions == a] - offsets) for a in range(k)]
        errors = [_leave_one_out(arms, penalty) / len(y) for penalty in penalties]
        # Scores and costs have different spreads; relative errors let one penalty serve both.
        best = int(np.argmin([(e / (y.var(axis=0) + 1e-12)).sum() for e in errors]))
        posteriors = [_posterior(z_a, y_a, penalties[best]) for z_a, y_a in arms]
        return cls(
            log.pool.models,
            centre=pca.mean_,
            basis=basis,
            means=np.stack([mean for mean, _ in posteriors]),
            covariances=np.stack([covariance for _, covariance in posteriors]),
            offsets=offsets,
            noise=np.sqrt(np.maximum(errors[best], 1e-12)),
            parameter=np.array(parameter),
        )

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> Matrix:
        n = len(embeddings)
        mask = self.checked_eligible(n, eligible)
        w = self.checked_preferences(embeddings, preferences)
        if n == 0:
            return np.zeros((0, len(self.models)))
        return self._choose(*self.posterior_rewards(embeddings, w), mask)

    def posterior_rewards(self, embeddings: FloatArray, preferences: FloatArray) -> tuple[Matrix, Matrix]:
        """Return mean and standard deviation of each model's expected reward, both of shape (n, n_models).

        Args:
            embeddings: shape (n, d).
            preferences: shape (n, 2).
        """
        w = np.asarray(preferences, dtype=np.float64)
        projected = (np.asarray(embeddings, dtype=np.float64) - self.centre) @ self.basis
        z = np.hstack([projected, np.ones((len(projected), 1))])
        outcomes = np.einsum("np,kpt->nkt", z, self.means) + self.offsets
        mean = w[:, :1] * outcomes[:, :, 0] - w[:, 1:] * outcomes[:, :, 1]
        leverage = np.einsum("np,kpq,nq->nk", z, self.covariances, z, optimize=True)
        variance = (w**2 @ self.noise**2)[:, None] * np.maximum(leverage, 0.0)
        return mean, np.sqrt(variance)

    @abstractmethod
    def _choose(self, mean: Matrix, deviation: Matrix, eligible: BoolArray) -> Matrix: ...


@dataclass(frozen=True)
class EpsilonGreedyPolicy(LinearArmsPolicy):
    """The best posterior mean, but for a share epsilon of uniformly random calls."""

    kind: ClassVar[str] = "epsilon_greedy"

    @classmethod
    def fit(
        cls,
        log: LoggedFeedback,
        tau_usd: float,
        *,
        epsilon: float = 0.1,
        components: int = COMPONENTS,
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Fit to the events whose outcome has arrived; ``tau_usd`` is in USD, ``epsilon`` in [0, 1].

        Raises:
            ValueError: no event has an outcome.
        """
        return cls._fit(log, tau_usd, components, penalties, epsilon)

    def _choose(self, mean: Matrix, deviation: Matrix, eligible: BoolArray) -> Matrix:
        best = greedy(np.where(eligible, mean, -np.inf))
        uniform = eligible / eligible.sum(axis=1, keepdims=True)
        return (1.0 - self.parameter) * best + self.parameter * uniform


@dataclass(frozen=True)
class LinUcbPolicy(LinearArmsPolicy):
    """The best upper confidence bound, mean + alpha standard deviations (LinUCB, arXiv 1003.0146)."""

    kind: ClassVar[str] = "linucb"

    @classmethod
    def fit(
        cls,
        log: LoggedFeedback,
        tau_usd: float,
        *,
        alpha: float = 1.0,
        components: int = COMPONENTS,
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Fit to the events whose outcome has arrived; ``tau_usd`` is in USD, ``alpha`` >= 0.

        Raises:
            ValueError: no event has an outcome.
        """
        return cls._fit(log, tau_usd, components, penalties, alpha)

    def _choose(self, mean: Matrix, deviation: Matrix, eligible: BoolArray) -> Matrix:
        return greedy(np.where(eligible, mean + self.parameter * deviation, -np.inf))


@dataclass(frozen=True)
class ThompsonPolicy(LinearArmsPolicy):
    """Each model with the probability that it is the best (linear Thompson sampling, arXiv 1209.3352).

    The probabilities are integrals over the independent posteriors, not frequencies of draws: they are exact
    propensities and the same in every call. ``parameter`` widens the posterior.
    """

    kind: ClassVar[str] = "thompson"

    @classmethod
    def fit(
        cls,
        log: LoggedFeedback,
        tau_usd: float,
        *,
        width: float = 1.0,
        components: int = COMPONENTS,
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Fit to the events whose outcome has arrived; ``width`` > 0 scales the posterior's deviation.

        Raises:
            ValueError: no event has an outcome.
        """
        return cls._fit(log, tau_usd, components, penalties, width)

    def _choose(self, mean: Matrix, deviation: Matrix, eligible: BoolArray) -> Matrix:
        spread = np.maximum(self.parameter * deviation, 1e-9)
        chunks = [
            probability_of_best(
                mean[i : i + CHUNK_ROWS], spread[i : i + CHUNK_ROWS], eligible[i : i + CHUNK_ROWS]
            )
            for i in range(0, len(mean), CHUNK_ROWS)
        ]
        return np.concatenate(chunks)


def probability_of_best(mean: Matrix, deviation: Matrix, eligible: BoolArray) -> Matrix:
    """Return the probability that each of K independent normals is the largest, shape (n, K).

    Args:
        mean: shape (n, K).
        deviation: shape (n, K), positive.
        eligible: shape (n, K); the others take no part and get 0.
    """
    low = np.where(eligible, mean - DEVIATIONS * deviation, -np.inf).max(axis=1)
    high = np.where(eligible, mean + DEVIATIONS * deviation, -np.inf).max(axis=1)
    edges = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, QUADRATURE_POINTS + 1)
    below = ndtr((edges[:, :, None] - mean[:, None, :]) / deviation[:, None, :])
    below = np.where(eligible[:, None, :], below, 1.0)
    middle = np.maximum(0.5 * (below[:, 1:] + below[:, :-1]), 1e-300)
    others = np.exp(np.log(middle).sum(axis=2, keepdims=True) - np.log(middle))
    mass = (np.diff(below, axis=1) * others).sum(axis=1)
    mass = np.where(eligible, mass, 0.0)
    return mass / mass.sum(axis=1, keepdims=True)


def _posterior(z: Matrix, y: Matrix, penalty: float) -> tuple[Matrix, Matrix]:
    covariance = np.linalg.inv(z.T @ z + penalty * np.eye(z.shape[1]))
    return np.asarray(covariance @ (z.T @ y)), np.asarray(covariance, dtype=np.float64)


def _leave_one_out(arms: Sequence[tuple[Matrix, Matrix]], penalty: float) -> npt.NDArray[Any]:
    """Return the summed squared leave-one-out errors of both targets over all arms, shape (2,)."""
    total = np.zeros(2)
    for z, y in arms:
        mean, covariance = _posterior(z, y, penalty)
        leverage = np.einsum("np,pq,nq->n", z, covariance, z, optimize=True)
        total += (((y - z @ mean) / (1.0 - leverage)[:, None]) ** 2).sum(axis=0)
    return total
