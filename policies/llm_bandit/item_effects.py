"""What the known models' answers say of each prompt beyond the frozen network: its own difficulty.

A network that sees a prompt's embedding knows how hard such prompts are, not how hard this one is; two dozen recorded
answers do. A new model's answer is weighed against them: failing where all fail says little, failing where most
succeed says much. The model is item response theory's random item effect: given the calibrated logit ``eta`` of the
network, ``logit = kappa eta + u`` with ``u ~ N(0, s^2)`` of the prompt, and ``kappa = sqrt(1 + pi s^2 / 8)``, so that
averaged over u the network's own probability comes back (MacKay 1992, the probit approximation of the logistic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import logsumexp

from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork, logits
from policies.llm_bandit.observations import Observations

Float64Array = npt.NDArray[np.float64]

PROBIT = np.pi / 8.0
DEVIATIONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Values of s that are tried."""

NODES = 21
ROWS_FOR_DEVIATION = 800
"""Prompts that s is chosen on: it is one number."""


@dataclass(frozen=True)
class ItemEffects:
    """How a new model's calibrated logit on n prompts departs from the network's: ``scale * eta + shift``.

    Attributes:
        scale: shape (n,), kappa over what is left unknown of u, which pulls probabilities towards a half.
        shift: shape (n,), the mean of u given the known answers, likewise.
        deviation: s; 0 where the known answers show no effect of the prompt.
    """

    scale: Float64Array
    shift: Float64Array
    deviation: float

    @classmethod
    def none(cls, n: int) -> Self:
        """Return no effect: the network's word is all that is known of n prompts."""
        return cls(np.ones(n), np.zeros(n), 0.0)

    @classmethod
    def of(cls, network: ScoringNetwork, arms: Arms, answers: Observations) -> Self:
        """Return the effects of prompts that the known models have answered.

        Args:
            network: frozen and calibrated.
            arms: the known models.
            answers: n prompts over the known models in the order of ``arms``, NaN where not asked.
        """
        slope, intercept = network.platt
        loadings = network.loadings(network.inputs(answers.embeddings, answers.prompt_tokens))
        return cls.given(slope * logits(loadings, arms) + intercept, answers.scores)

    @classmethod
    def given(cls, eta: Float64Array, scores: Float64Array) -> Self:
        """Return the effects of n prompts from calibrated logits and known scores, both (n, K), NaN where unknown."""
        n = len(eta)
        if not np.isfinite(scores).any():
            return cls.none(n)
        step = max(1, n // ROWS_FOR_DEVIATION)
        fits = [logsumexp(_log_joint(eta[::step], scores[::step], s), axis=1).sum() for s in DEVIATIONS]
        s = DEVIATIONS[int(np.argmax(fits))]
        joint = _log_joint(eta, scores, s)
        weight = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        nodes = s * hermegauss(NODES)[0]
        mean = weight @ nodes
        variance = np.maximum(weight @ nodes**2 - mean**2, 0.0)
        shrink = 1.0 / np.sqrt(1.0 + PROBIT * variance)
        return cls(shrink * np.sqrt(1.0 + PROBIT * s**2), shrink * mean, s)

    def rows(self, index: npt.ArrayLike) -> Self:
        """Return the effects of some of the prompts."""
        i = np.asarray(index)
        return type(self)(self.scale[i], self.shift[i], self.deviation)


def _log_joint(eta: Float64Array, scores: Float64Array, s: float) -> Float64Array:
    """Return the log probability of each prompt's answers and u at Gauss-Hermite nodes, shape (n, nodes)."""
    nodes, weights = hermegauss(NODES)
    seen = np.isfinite(scores)
    y = np.where(seen, scores, 0.0)
    centre = np.sqrt(1.0 + PROBIT * s**2) * eta
    columns = []
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        z = centre + s * node
        columns.append((seen * (y * z - np.logaddexp(0.0, z))).sum(axis=1) + np.log(weight))
    return np.stack(columns, axis=1)
