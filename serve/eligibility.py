"""Which models may take a request, and why the others may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from policies.pool import ModelPool
from serve.question import Constraints


class UnknownModelsError(ValueError):
    """The request names models that the pool does not have."""

    def __init__(self, unknown: Sequence[str], allowed: Sequence[str], param: str = "models") -> None:
        self.unknown = tuple(unknown)
        self.param = param
        names = ", ".join(f"'{name}'" for name in unknown)
        super().__init__(f"unknown model {names}; allowed: {', '.join(allowed)}")


class NoEligibleModelError(ValueError):
    """Every model that may be chosen was ruled out.

    Attributes:
        reasons: why, by model.
        least_usd: what the cheapest model may cost that nothing but the budget rules out, None without such a model.
    """

    def __init__(self, reasons: Mapping[str, str], least_usd: float | None = None) -> None:
        self.reasons = dict(reasons)
        self.least_usd = least_usd
        super().__init__("no eligible model: " + "; ".join(f"{m}: {why}" for m, why in reasons.items()))


class Eligibility:
    """Applies constraints to a pool.

    A model whose pool entry has no tags has unknown capabilities, one whose latency was never seen an unknown
    latency: what is not known rules nothing out.

    Args:
        pool: the models.

    Attributes:
        everyone: shape (K,), the very mask that is returned when nothing rules anything out.
    """

    def __init__(self, pool: ModelPool) -> None:
        self._models = pool.models
        self._columns = {model: k for k, model in enumerate(pool.models)}
        self._windows = [spec.context_window_tokens or float("inf") for spec in pool.specs]
        self._smallest_window = min(self._windows)
        self._tags = [frozenset(spec.tags) for spec in pool.specs]
        self._specs = pool.specs
        prices = pool.prices_per_token_usd
        self._dearest_token_usd = float(prices.max(initial=0.0))
        self._dearest_call_usd = float(pool.prices_per_call_usd.max(initial=0.0))
        self.everyone = np.ones(len(pool.models), dtype=bool)
        self.everyone.flags.writeable = False

    def candidates(self, constraints: Constraints) -> int:
        """Return how many models the names in the constraints leave."""
        if constraints.models is None and not constraints.exclude:
            return len(self._models)
        named = self._models if constraints.models is None else constraints.models
        return len(set(named).difference(constraints.exclude))

    def check_names(self, constraints: Constraints) -> None:
        """Raise UnknownModelsError unless the pool has every model that the constraints name."""
        for param, names in (("models", constraints.models), ("exclude", constraints.exclude)):
            unknown = [model for model in names or () if model not in self._columns]
            if unknown:
                raise UnknownModelsError(unknown, self._models, param)

    def eligible(
        self,
        constraints: Constraints,
        prompt_tokens: float,
        costs_usd: npt.NDArray[np.float64],
        latencies_s: Sequence[float | None],
        unhealthy: Mapping[str, str],
    ) -> tuple[npt.NDArray[np.bool_], dict[str, str]]:
        """Return the mask of eligible models, shape (K,), and the reasons against candidates.

        Args:
            constraints: of the request.
            prompt_tokens: length of what the model would be sent.
            costs_usd: shape (K,), expected USD per call.
            latencies_s: shape (K,), expected latencies, None where unknown.
            unhealthy: models that cannot be called now, and why.

        Raises:
            UnknownModelsError: a named model is not in the pool.
            NoEligibleModelError: nothing is left.
        """
        room = prompt_tokens + constraints.completion_tokens
        affordable = self._affordable(constraints, prompt_tokens)
        if not unhealthy and affordable and room <= self._smallest_window and _unconstrained(constraints):
            return self.everyone, {}
        self.check_names(constraints)
        reasons: dict[str, str] = {}
        unaffordable_usd: list[float] = []
        mask = np.zeros(len(self._models), dtype=bool)
        for model in self._models if constraints.models is None else constraints.models:
            k = self._columns[model]
            why = self._why_not(k, constraints, prompt_tokens, float(costs_usd[k]), latencies_s[k], unhealthy)
            if why is None and not affordable and constraints.budget_usd is not None:
                worst_usd = self._specs[k].cost_usd(prompt_tokens, constraints.worst_completion_tokens)
                if worst_usd > constraints.budget_usd:
                    unaffordable_usd.append(worst_usd)
                    why = _over_budget(worst_usd, constraints)
            if why is None:
                mask[k] = True
            else:
                reasons[model] = why
        if not mask.any():
            raise NoEligibleModelError(reasons, min(unaffordable_usd, default=None))
        return mask, reasons

    def _affordable(self, constraints: Constraints, prompt_tokens: float) -> bool:
        """Tell whether the budget is so large that no model has to be looked at."""
        tokens = prompt_tokens + constraints.worst_completion_tokens
        worst_usd = self._dearest_call_usd + tokens * self._dearest_token_usd
        return constraints.budget_usd is None or worst_usd <= constraints.budget_usd

    def _why_not(
        self,
        k: int,
        constraints: Constraints,
        prompt_tokens: float,
        cost_usd: float,
        latency_s: float | None,
        unhealthy: Mapping[str, str],
    ) -> str | None:
        model = self._models[k]
        if model in constraints.exclude:
            return "excluded by the request"
        if model in unhealthy:
            return unhealthy[model]
        missing = [need for need in constraints.needs if need not in self._tags[k]]
        if self._tags[k] and missing:
            return f"does not have {', '.join(missing)}"
        window, answer = self._windows[k], constraints.completion_tokens
        if prompt_tokens + answer > window:
            rest = f" and {answer} for the answer" if answer else ""
            return f"about {prompt_tokens:.0f} prompt tokens{rest} exceed its context window of {window:.0f}"
        if constraints.max_cost_usd is not None and cost_usd > constraints.max_cost_usd:
            return f"expected cost {cost_usd:.6g} USD is above max_cost_usd {constraints.max_cost_usd:g}"
        if constraints.max_latency_s is not None and (latency_s or 0.0) > constraints.max_latency_s:
            return f"expected latency {latency_s:.3g} s is above max_latency_s {constraints.max_latency_s:g}"
        return None


def _over_budget(worst_usd: float, constraints: Constraints) -> str:
    answer = f"an answer of {constraints.worst_completion_tokens} tokens"
    return (
        f"may cost {worst_usd:.6g} USD with {answer}, {constraints.budget_usd:.6g} USD of the budget are left"
    )


def _unconstrained(constraints: Constraints) -> bool:
    return (
        constraints.models is None
        and not constraints.exclude
        and not constraints.needs
        and constraints.max_cost_usd is None
        and constraints.max_latency_s is None
    )
