"""What a request asks of the router, whichever route it came by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


class BadEmbeddingError(ValueError):
    """The request's embedding is not one of the served encoder."""


class UnknownVersionError(ValueError):
    """The request names a policy version that is not loaded."""

    def __init__(self, version: str, loaded: list[str]) -> None:
        super().__init__(f"unknown policy version '{version}'; loaded: {', '.join(loaded)}")


@dataclass(frozen=True)
class Constraints:
    """What rules models out.

    Attributes:
        models: the models to choose from, None for all.
        exclude: models not to choose.
        max_cost_usd: highest expected cost of the call.
        max_latency_s: longest expected latency of the call.
        needs: capabilities that the request makes use of, as tags of the pool (``tools``, ``vision``).
        completion_tokens: room that the answer must have in the context window.
        budget_usd: most that the call may cost at its worst, an answer of ``worst_completion_tokens``.
        worst_completion_tokens: longest answer that has to be paid for.
    """

    models: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    max_cost_usd: float | None = None
    max_latency_s: float | None = None
    needs: tuple[str, ...] = ()
    completion_tokens: int = 0
    budget_usd: float | None = None
    worst_completion_tokens: int = 0


@dataclass(frozen=True)
class Question:
    """One prompt or conversation to be routed.

    Attributes:
        text: what the encoder reads; ignored when ``embedding`` is given.
        prompt_tokens: length of what the model would be sent.
        preference: (w_quality, w_cost) on the simplex.
        constraints: what rules models out.
        embedding: shape (d,), None to embed ``text``.
        session_id: conversation that this turn belongs to.
        metadata: the caller's own labels, kept with the decision.
        retry_of: the decision whose model failed, when this one replaces it.
        key_id: whose request it is, None without API keys.
        policy_version: the version that must decide, None for whichever is in charge.
    """

    text: str
    prompt_tokens: float
    preference: tuple[float, float]
    constraints: Constraints = Constraints()
    embedding: npt.NDArray[np.float32] | None = None
    session_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    retry_of: str | None = None
    key_id: str | None = None
    policy_version: str | None = None
