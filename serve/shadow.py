"""Shadow decisions: what another policy would have chosen, counted and never answered."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from serve.decider import Decision
from serve.metrics import Metrics
from serve.question import Question
from serve.releases import Release

logger = logging.getLogger(__name__)


def decide_along(
    shadow: Release,
    question: Question,
    embedding: npt.NDArray[np.float32],
    decision: Decision,
    metrics: Metrics,
) -> None:
    """Decide once more with the shadow and count whether it agrees; whatever happens here stays here.

    Args:
        shadow: decides along.
        question: as it was answered.
        embedding: shape (d,).
        decision: the one that was answered.
        metrics: where it is counted.
    """
    try:
        found = shadow.decider.decide(
            embedding,
            question.preference,
            prompt_tokens=question.prompt_tokens,
            constraints=question.constraints,
            explore=False,
        )
    except Exception as error:
        # Of any kind: another pool may lack the models that were asked for.
        logger.debug("shadow decision failed: %s", type(error).__name__)
        metrics.shadow_failed(shadow.bundle.policy_version)
        return
    metrics.shadowed(
        shadow.bundle.policy_version, found.model == decision.model, found.expected_costs_usd[found.model]
    )
