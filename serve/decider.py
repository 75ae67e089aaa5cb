"""The decision itself, in process: an embedding, a preference and constraints in, a choice out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from policies.base import Judgement
from policies.bundle import RouterBundle
from policies.errors import InputError
from policies.newcomers import exploration_worth
from serve.eligibility import Eligibility, NoEligibleModelError, UnknownModelsError
from serve.exploration import draw, explored
from serve.latency import Latencies
from serve.question import Constraints
from serve.sessions import Stay
from serve.settings.decision import ExplorationSettings

__all__ = ["Decider", "Decision", "NoEligibleModelError", "UnknownModelsError", "check_exploration"]

FloatArray = npt.NDArray[np.float64]

Value = TypeVar("Value")

UNCONSTRAINED = Constraints()
NO_REASONS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Decision:
    """A choice among eligible models.

    Attributes:
        model: the chosen model.
        propensity: probability with which it was chosen among the eligible ones, exploration included.
        probabilities: the policy's own distribution over the eligible models.
        expected_costs_usd: expected USD per call of the eligible models.
        ineligible: candidate models that were ruled out, and why.
        expected_scores: in [0, 1], of the eligible models; None when nothing predicts them.
        expected_latencies_s: of the eligible models, None where unknown.
        best_cost_usd: expected cost of what always-best would have called among the eligible models.
        kept: a session stayed with its model where a lone request would have gone to another.
    """

    model: str
    propensity: float
    probabilities: dict[str, float]
    expected_costs_usd: dict[str, float]
    ineligible: dict[str, str]
    expected_scores: dict[str, float] | None
    expected_latencies_s: dict[str, float | None]
    best_cost_usd: float
    kept: bool = False


class Decider:
    """Decides with one policy artifact. Cheap enough (one row) for an event loop.

    Args:
        bundle: the policy artifact.
        decision: ``greedy`` takes the most probable model (propensity 1), ``sample`` draws from the policy.
        rng: source of the draws.
        exploration: mixed into what ``decision`` says.

    Attributes:
        specs: the models by name.
    """

    def __init__(
        self,
        bundle: RouterBundle,
        decision: Literal["greedy", "sample"] = "greedy",
        rng: np.random.Generator | None = None,
        *,
        exploration: ExplorationSettings | None = None,
    ) -> None:
        self.bundle = bundle
        self.eligibility = Eligibility(bundle.pool)
        self.specs = {spec.name: spec for spec in bundle.pool.specs}
        self._sample = decision == "sample"
        self._exploration = exploration or ExplorationSettings()
        self._rng = rng or np.random.default_rng()
        self._models = bundle.pool.models
        self._columns = {model: column for column, model in enumerate(self._models)}
        self._prices = bundle.cost_model.prices_per_token_usd[:, 0].copy()
        self._output_costs = bundle.cost_model.mean_output_cost_usd
        means = bundle.training_means
        self._trained_s: Sequence[float | None] = means.latencies_s if means else [None] * len(self._models)
        self._mean_scores = (
            None if means is None else np.array([-1.0 if score is None else score for score in means.scores])
        )

    def check_models(self, constraints: Constraints) -> None:
        """Raise UnknownModelsError unless the pool has every model that the constraints name."""
        self.eligibility.check_names(constraints)

    def decide(
        self,
        embedding: npt.NDArray[np.float32] | None,
        preference: tuple[float, float],
        *,
        prompt_tokens: float,
        constraints: Constraints = UNCONSTRAINED,
        unhealthy: Mapping[str, str] = NO_REASONS,
        latencies: Latencies | None = None,
        stay: Stay | None = None,
        explore: bool = True,
    ) -> Decision:
        """Return a decision for one prompt.

        Args:
            embedding: shape (d,); None where the constraints leave one model, whose score is then not known.
            preference: (w_quality, w_cost) on the simplex.
            prompt_tokens: length of what the model would be sent, tokens.
            constraints: what rules models out.
            unhealthy: models that cannot be called now, and why.
            latencies: what recent calls took.
            stay: what speaks for the session's last model.
            explore: whether this request may explore.

        Raises:
            UnknownModelsError: the constraints name models that the pool does not have.
            NoEligibleModelError: every model is ruled out.
        """
        judged = None
        if embedding is not None:
            judged = self.bundle.policy.judge(embedding, preference, prompt_tokens)
        costs = None if judged is None else judged.costs_usd
        if costs is None:
            costs = prompt_tokens * self._prices + self._output_costs
        latencies_s = self.latencies_s(latencies)
        everyone = self.eligibility.everyone
        eligible, ineligible = self.eligibility.eligible(
            constraints, prompt_tokens, costs, latencies_s, unhealthy
        )
        if judged is None:
            if embedding is not None:
                policy = self._policy_row(embedding, preference, prompt_tokens, eligible)
            else:
                assert eligible.sum() == 1, "without an embedding there is nothing to choose by"
                policy = eligible.astype(np.float64)
            # Smooth where the policy's own distribution is: its logits, in its own unit.
            values = np.log(np.maximum(policy, 1e-300))
        else:
            values = judged.values if eligible is everyone else np.where(eligible, judged.values, -np.inf)
            policy = _one_hot(values) if judged.probabilities is None else judged.probabilities(eligible)
        greedy = judged is not None and judged.probabilities is None
        base = policy if self._sample or greedy else _one_hot(policy)
        kept = False
        if stay is not None:
            base, kept = self._kept(stay, base, None if judged is None else values, eligible, preference[1])
        drawn = base
        if explore:
            worth = self._worth(judged, preference[0], eligible)
            drawn = explored(base, values, eligible, self._exploration, worth)
        chosen = int(drawn.argmax())
        if drawn[chosen] < 1.0:
            chosen = draw(drawn, self._rng)
        columns = None if eligible is everyone else np.flatnonzero(eligible).tolist()
        return Decision(
            model=self._models[chosen],
            propensity=float(drawn[chosen]),
            probabilities=self._by_name(policy.tolist(), columns),
            expected_costs_usd=self._by_name(costs.tolist(), columns),
            ineligible=ineligible,
            expected_scores=None if judged is None else self._by_name(judged.scores.tolist(), columns),
            expected_latencies_s=self._by_name(latencies_s, columns),
            best_cost_usd=float(costs[self.best(eligible, costs)]),
            kept=kept,
        )

    def _by_name(self, values: Sequence[Value], columns: Sequence[int] | None) -> dict[str, Value]:
        """Return values of the models in ``columns``, None for all, by their names."""
        if columns is None:
            return dict(zip(self._models, values))
        return {self._models[k]: values[k] for k in columns}

    def _policy_row(
        self,
        embedding: npt.NDArray[np.float32],
        preference: tuple[float, float],
        prompt_tokens: float,
        eligible: npt.NDArray[np.bool_],
    ) -> FloatArray:
        w = np.array([preference], dtype=np.float32)
        row: FloatArray = self.bundle.policy.action_probabilities(
            embedding[None, :], w, eligible[None, :], prompt_tokens=np.array([prompt_tokens])
        )[0]
        return row

    def _worth(
        self, judged: Judgement | None, w_quality: float, eligible: npt.NDArray[np.bool_]
    ) -> FloatArray | None:
        """Return what trying each newcomer is worth; None when that does not matter or the policy cannot tell."""
        if self._exploration.kind != "newcomers" or judged is None or judged.logit_std is None:
            return None
        ratio = self._exploration.newcomer_ratio
        return exploration_worth(judged.values, judged.scores, judged.logit_std, w_quality, eligible, ratio)

    def _kept(
        self,
        stay: Stay,
        base: FloatArray,
        values: FloatArray | None,
        eligible: npt.NDArray[np.bool_],
        w_cost: float,
    ) -> tuple[FloatArray, bool]:
        """Return the base distribution of a session, and whether the last model kept it against the policy."""
        column = self._columns.get(stay.model)
        if column is None or not eligible[column]:
            return base, False
        # A policy without values cannot tell what a switch would gain: the session stays.
        if values is not None:
            gain = float(values[base.argmax()] - values[column])
            if gain > stay.worth(float(self._prices[column]), w_cost, self.bundle.tau_usd):
                return base, False
        kept = np.zeros(len(base))
        kept[column] = 1.0
        return kept, bool(base[column] < 1.0)

    def best(self, eligible: npt.NDArray[np.bool_], costs: FloatArray) -> int:
        """Return the column that always-best calls: the best mean score in training, else the dearest."""
        by = costs if self._mean_scores is None else self._mean_scores
        if eligible is not self.eligibility.everyone:
            by = np.where(eligible, by, -np.inf)
        return int(by.argmax())

    def latencies_s(self, recent: Latencies | None) -> Sequence[float | None]:
        """Return the expected latency of each model, None where unknown."""
        if not recent:
            return self._trained_s
        return [recent.expected_s(m, trained) for m, trained in zip(self._models, self._trained_s)]


def check_exploration(bundle: RouterBundle, exploration: ExplorationSettings) -> None:
    """Make sure that a policy can tell what the exploration asks of it.

    Raises:
        InputError: newcomers are to be tried, and the policy does not say how unsure it is of its scores.
    """
    if exploration.kind != "newcomers":
        return
    # Policies say so with a decision alone; any embedding will do.
    anywhere = np.full(bundle.encoder.dimension, bundle.encoder.dimension**-0.5, dtype=np.float32)
    judged = bundle.policy.judge(anywhere, (0.5, 0.5), 1.0)
    if judged is None or judged.logit_std is None:
        raise InputError(
            f"serve.routing.exploration.kind=newcomers: policy {bundle.policy_version} ({bundle.policy.kind}) does not "
            "say how unsure it is of its scores, so no model is new to it; allowed: none, epsilon, softmax, or a "
            "policy that does, such as llm_bandit"
        )


def _one_hot(values: FloatArray) -> FloatArray:
    row = np.zeros(len(values))
    row[values.argmax()] = 1.0
    return row
