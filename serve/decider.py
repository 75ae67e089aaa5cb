"""The decision itself, in process: an embedding, a preference and the eligible models in, a choice out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from policies.bundle import RouterBundle


class UnknownModelsError(ValueError):
    """The request names models that the pool does not have."""

    def __init__(self, unknown: Sequence[str], allowed: Sequence[str]) -> None:
        self.unknown = tuple(unknown)
        names = ", ".join(f"'{name}'" for name in unknown)
        super().__init__(f"unknown model {names}; allowed: {', '.join(allowed)}")


class NoEligibleModelError(ValueError):
    """Every model that may be chosen was ruled out."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__("no eligible model: " + "; ".join(f"{m}: {why}" for m, why in reasons.items()))


@dataclass(frozen=True)
class Decision:
    """A choice among eligible models.

    Attributes:
        model: the chosen model.
        propensity: probability with which it was chosen.
        probabilities: the policy's distribution over the eligible models.
        expected_costs_usd: expected USD per call of the eligible models.
        ineligible: candidate models that were ruled out, and why.
    """

    model: str
    propensity: float
    probabilities: dict[str, float]
    expected_costs_usd: dict[str, float]
    ineligible: dict[str, str]


class Decider:
    """Decides with one policy artifact. Cheap enough (one row) for an event loop.

    Args:
        bundle: the policy artifact.
        decision: ``greedy`` takes the most probable model (propensity 1), ``sample`` draws from the policy.
        rng: source of the draws.
    """

    def __init__(
        self,
        bundle: RouterBundle,
        decision: Literal["greedy", "sample"] = "greedy",
        rng: np.random.Generator | None = None,
    ) -> None:
        self.bundle = bundle
        self._sample = decision == "sample"
        self._rng = rng or np.random.default_rng()
        self._models = bundle.pool.models
        self._columns = {model: column for column, model in enumerate(self._models)}
        self._windows = np.array([s.context_window_tokens or np.inf for s in bundle.pool.specs])

    def decide(
        self,
        embedding: npt.NDArray[np.float32],
        preference: tuple[float, float],
        *,
        prompt_tokens: float,
        models: Sequence[str] | None = None,
    ) -> Decision:
        """Return a decision for one prompt.

        Args:
            embedding: shape (d,).
            preference: (w_quality, w_cost) on the simplex.
            prompt_tokens: length of what the model would be sent, tokens.
            models: the models to choose from, None for all.

        Raises:
            UnknownModelsError: ``models`` names one that the pool does not have.
            NoEligibleModelError: the prompt fits no candidate's context window.
        """
        eligible, ineligible = self._eligible(models, prompt_tokens)
        tokens = np.array([prompt_tokens])
        row = self.bundle.policy.action_probabilities(
            embedding[None, :],
            np.array([preference], dtype=np.float32),
            eligible[None, :],
            prompt_tokens=tokens,
        )[0]
        costs = self.bundle.cost_model.expected_costs_usd(tokens, 1)[0]
        chosen = self._draw(row) if self._sample else int(row.argmax())
        kept = np.flatnonzero(eligible).tolist()
        return Decision(
            model=self._models[chosen],
            propensity=float(row[chosen]) if self._sample else 1.0,
            probabilities={self._models[k]: float(row[k]) for k in kept},
            expected_costs_usd={self._models[k]: float(costs[k]) for k in kept},
            ineligible=ineligible,
        )

    def check_models(self, models: Sequence[str] | None) -> None:
        """Raise UnknownModelsError unless the pool has all ``models``."""
        unknown = [model for model in models or () if model not in self._columns]
        if unknown:
            raise UnknownModelsError(unknown, self._models)

    def _eligible(
        self, models: Sequence[str] | None, prompt_tokens: float
    ) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
        self.check_models(models)
        candidates = np.ones(len(self._models), dtype=bool)
        if models is not None:
            candidates[:] = False
            candidates[[self._columns[model] for model in models]] = True
        fits = prompt_tokens <= self._windows
        ineligible = {
            self._models[k]: (
                f"about {prompt_tokens:.0f} prompt tokens exceed its context window of {self._windows[k]:.0f}"
            )
            for k in np.flatnonzero(candidates & ~fits)
        }
        eligible = candidates & fits
        if not eligible.any():
            raise NoEligibleModelError(ineligible)
        return eligible, ineligible

    def _draw(self, probabilities: npt.NDArray[np.float64]) -> int:
        cumulative = probabilities.cumsum()
        # side="right" skips columns of probability 0, whose cumulative value equals their predecessor's.
        index = int(np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right"))
        return min(index, int(np.flatnonzero(probabilities)[-1]))
