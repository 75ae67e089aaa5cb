"""What LLM Bandit's training left behind, for the report: learning curves and a map of the identity vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.base import Policy
from policies.datasets import OutcomeMatrix
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.pool import ModelPool, ModelSpec

COUNTERS = {"identity": "epoch", "pretrain": "step", "ppo": "iteration"}
"""Stage of the training -> what its lines are counted by."""

_LEADING_NAME = re.compile(r"[A-Za-z]+")


MAP_PROMPTS = 4096
"""Prompts over which models are compared; more change nothing that a map could show."""


def training_evidence(history: Path, policy: Policy, known: OutcomeMatrix) -> dict[str, Any] | None:
    """Return curves and map as ``metrics.json`` holds them; None for a policy without identity vectors.

    Args:
        history: the run's training history.
        policy: of the run.
        known: training prompts, with the pool in the policy's column order.
    """
    if not isinstance(policy, LlmBanditPolicy):
        return None
    arms = policy.arms
    return {
        "curves": learning_curves(history),
        "identity_map": identity_map(
            arms.identity, arms.identity_std, known.pool, metric=_metric(policy, known)
        ),
    }


def _metric(policy: LlmBanditPolicy, known: OutcomeMatrix) -> npt.NDArray[np.float64]:
    """Return ``E[a(x) a(x)']`` of the loadings over prompts, shape (m, m)."""
    rows = np.linspace(0, len(known) - 1, min(MAP_PROMPTS, len(known))).astype(np.int64)
    inputs = policy.network.inputs(known.embeddings[rows], known.prompt_tokens[rows])
    loadings = policy.network.loadings(inputs).score.astype(np.float64)
    return policy.network.platt[0] ** 2 * (loadings.T @ loadings) / len(rows)


def learning_curves(history: Path) -> dict[str, list[dict[str, float]]]:
    """Return the history's lines by stage, in order; a stage that was not recorded has none."""
    curves: dict[str, list[dict[str, float]]] = {stage: [] for stage in COUNTERS}
    if history.exists():
        for text in history.read_text().splitlines():
            line = json.loads(text)
            if line.get("stage") in curves:
                curves[line.pop("stage")].append(line)
    return curves


def identity_map(
    identity: npt.NDArray[np.floating],
    identity_std: npt.NDArray[np.floating],
    pool: ModelPool,
    *,
    metric: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return each model's place on the first two principal axes of the identity vectors, with its uncertainty.

    Vectors are unique up to a linear map at best, so their own lengths tell little; in the metric
    ``M = E[a(x) a(x)']`` of the loadings the distance of two models, ``sqrt((I - J)' M (I - J))``, is the root mean
    squared difference of their predicted logits. The same vectors give the same map: the sign of an axis is such
    that its largest entry is positive.

    Args:
        identity: shape (K, m), posterior means.
        identity_std: shape (K, m), posterior deviations.
        pool: the K models.
        metric: shape (m, m), positive semidefinite.

    Returns:
        ``shares``: part of the variance between models on either axis; ``models``: per model ``family``, ``kind``,
        ``x``, ``y`` in logits and ``covariance`` (2, 2) of the posterior in the plane.
    """
    values, vectors = np.linalg.eigh(metric)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    means = np.asarray(identity, dtype=np.float64) @ root
    centred = means - means.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((2, centred.shape[1]))
    plane[: len(axes)] = axes[:2]
    signs = np.sign(plane[np.arange(2), np.abs(plane).argmax(axis=1)])
    plane *= np.where(signs == 0.0, 1.0, signs)[:, None]
    places = centred @ plane.T
    total = float((singular**2).sum())
    shares = np.zeros(2)
    if total > 0.0:
        shares[: len(singular)] = (singular**2)[:2] / total
    variances = np.asarray(identity_std, dtype=np.float64) ** 2
    plane = plane @ root
    return {
        "shares": shares.tolist(),
        "models": {
            spec.name: {
                "family": family_of(spec),
                "kind": spec.kind,
                "x": float(places[k, 0]),
                "y": float(places[k, 1]),
                "covariance": ((plane * variances[k]) @ plane.T).tolist(),
            }
            for k, spec in enumerate(pool.specs)
        },
    }


def family_of(spec: ModelSpec) -> str:
    """Return the pool file's family or, without one, the first word of the name: ``gpt`` of ``openai/gpt-4o``."""
    if spec.family is not None:
        return spec.family
    name = spec.name.rpartition("/")[2]
    found = _LEADING_NAME.match(name)
    return found.group().lower() if found else name


def by_family(models: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of each family of at least two, the largest first."""
    families: dict[str, list[str]] = {}
    for name, body in models.items():
        families.setdefault(body["family"], []).append(name)
    ranked = sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))
    return {family: names for family, names in ranked if len(names) > 1}
