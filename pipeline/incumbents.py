"""What a candidate must beat: the incumbent that ``evaluate.incumbent`` names, as a policy over the same pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.evaluate import ALWAYS_INCUMBENT, BEST_SINGLE_INCUMBENT, LOGGED_INCUMBENT
from pipeline.embedding_table import same_vectors
from policies.base import BoolArray, FloatArray, Policy
from policies.bundle import RouterBundle
from policies.constants import AlwaysPolicy, BestSinglePolicy
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.preference import cost_term


@dataclass(frozen=True)
class Incumbent:
    """The policy in place.

    Attributes:
        label: what reports call it.
        policy: its decision rule over the candidate's pool; None for the policy that logged.
    """

    label: str
    policy: Policy | None


def incumbent_of(
    name: str,
    bundle: RouterBundle,
    training: LoggedFeedback | OutcomeMatrix,
    tau_usd: float,
    min_action_events: int,
) -> Incumbent:
    """Return the incumbent.

    Args:
        name: ``evaluate.incumbent``.
        bundle: the candidate, whose pool and encoder it must share.
        training: what the best single model is estimated from; of a full table, complete prompts.
        tau_usd: cost scale in USD.
        min_action_events: models logged less often are not taken for the best.

    Raises:
        InputError: an unknown model, no artifact there, or one of other models or of another encoder.
    """
    models = bundle.pool.models
    if name == LOGGED_INCUMBENT:
        return Incumbent("the policy that logged", None)
    if name == BEST_SINGLE_INCUMBENT:
        return Incumbent(
            "best single model per preference", best_single(models, training, tau_usd, min_action_events)
        )
    if name.startswith(ALWAYS_INCUMBENT):
        model = name.removeprefix(ALWAYS_INCUMBENT)
        if model not in models:
            raise InputError(f"evaluate.incumbent={name}: no such model; allowed: {', '.join(models)}")
        return Incumbent(f"always {model}", AlwaysPolicy(models, model))
    return _from_artifact(Path(name), bundle)


def best_single(
    models: tuple[str, ...],
    training: LoggedFeedback | OutcomeMatrix,
    tau_usd: float,
    min_action_events: int,
) -> BestSinglePolicy:
    """Return the best fixed model per preference; on a log, by self-normalised inverse propensity weighting.

    A model with fewer than ``min_action_events`` scored events is taken to be as bad as can be: score 0, cost
    at the scale's end.

    Raises:
        InputError: no model was logged so often.
    """
    if isinstance(training, OutcomeMatrix):
        return BestSinglePolicy.fit(models, training.scores, training.costs_usd, tau_usd)
    events = training.scored()
    scores, cost_terms = np.zeros(len(models)), np.ones(len(models))
    terms = cost_term(events.costs_usd, tau_usd)
    known = False
    for model in range(len(models)):
        mine = events.actions == model
        if mine.sum() < min_action_events:
            continue
        known = True
        weights = 1.0 / events.propensities[mine]
        scores[model] = np.average(events.scores[mine], weights=weights)
        cost_terms[model] = np.average(terms[mine], weights=weights)
    if not known:
        raise InputError(
            f"evaluate.incumbent=best_single: none of {len(models)} models has {min_action_events} scored events in "
            "the training part of the log; name an incumbent: always:MODEL, logged or a policy's folder"
        )
    return BestSinglePolicy(models, scores, cost_terms)


def _from_artifact(path: Path, bundle: RouterBundle) -> Incumbent:
    folder = path / "policy" if (path / "policy" / "bundle.json").exists() else path
    if not (folder / "bundle.json").exists():
        raise InputError(
            f"evaluate.incumbent={path}: neither the folder of a policy artifact nor of its run; allowed also: "
            "best_single, always:MODEL, logged"
        )
    other = RouterBundle.load(folder)
    if not same_vectors(other.encoder, bundle.encoder):
        raise InputError(
            f"evaluate.incumbent={path}: trained on vectors of {other.encoder.name} ({other.encoder.backend}), the "
            f"candidate on {bundle.encoder.name} ({bundle.encoder.backend})"
        )
    models = bundle.pool.models
    strange = [model for model in other.pool.models if model not in models]
    if strange:
        raise InputError(
            f"evaluate.incumbent={path}: it may call '{strange[0]}', which the candidate's pool lacks "
            f"({', '.join(models)})"
        )
    label = f"{other.policy.kind} {other.policy_version}"
    return Incumbent(label, other.policy if other.pool.models == models else _Placed(models, other.policy))


@dataclass(frozen=True)
class _Placed(Policy):
    """A policy of some of the pool's models; where none of them is eligible, any eligible model is as good."""

    kind: ClassVar[str] = "placed"
    models: tuple[str, ...]
    inner: Policy

    def action_probabilities(
        self,
        embeddings: FloatArray,
        preferences: FloatArray,
        eligible: BoolArray | None = None,
        *,
        prompt_tokens: FloatArray | None = None,
    ) -> npt.NDArray[np.float64]:
        mask = self.checked_eligible(len(embeddings), eligible)
        columns = [self.models.index(model) for model in self.inner.models]
        inside = mask[:, columns]
        served = inside.any(axis=1)
        probabilities = mask / mask.sum(axis=1, keepdims=True)
        own = self.inner.action_probabilities(
            embeddings[served],
            preferences[served],
            inside[served],
            prompt_tokens=None if prompt_tokens is None else prompt_tokens[served],
        )
        probabilities[served] = 0.0
        probabilities[np.flatnonzero(served)[:, None], columns] = own
        return probabilities
