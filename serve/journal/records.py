"""What the decision log holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class DecisionRecord:
    """One decision, as it was answered.

    Attributes:
        decision_id: unique; the ``event_id`` of the feedback log.
        timestamp: when it was made, UTC.
        prompt_id: content hash of the routed text; copies of a prompt share it.
        w_quality: preference's first weight.
        w_cost: preference's second weight.
        eligible: models that could have been called.
        model: the one that was chosen.
        propensity: probability with which it was chosen among ``eligible``.
        policy_version: content hash of the policy that decided.
        prompt_tokens: length of what the model would be sent.
        expected_score: None when nothing predicts one.
        expected_cost_usd: of the chosen model.
        best_cost_usd: expected cost of the model that always-best would have called: what savings are against.
        release: ``champion`` or ``canary``.
        key_id: whose request it was, None without API keys.
        session_id: the conversation, if any.
        retry_of: the decision that this one replaces.
        metadata: the caller's labels.
        embedding: shape (d,), None unless the log keeps embeddings.
        prompt: the text, None unless the log keeps prompts.
    """

    decision_id: str
    timestamp: datetime
    prompt_id: str
    w_quality: float
    w_cost: float
    eligible: tuple[str, ...]
    model: str
    propensity: float
    policy_version: str
    prompt_tokens: int
    expected_score: float | None
    expected_cost_usd: float
    best_cost_usd: float
    release: str
    key_id: str | None = None
    session_id: str | None = None
    retry_of: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: npt.NDArray[np.float32] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a decision; a field that is None is not known (yet), never 0.

    Attributes:
        score: quality of the answer in [0, 1].
        cost_usd: what the call cost.
        prompt_tokens: as counted by the upstream.
        completion_tokens: as counted by the upstream.
        latency_s: from sending the request to the last byte.
        error: why there is no answer, a short code, when the call failed.
    """

    score: float | None = None
    cost_usd: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float | None = None
    error: str | None = None


OutcomeStatus = Literal["recorded", "duplicate", "conflict", "unknown"]
"""``recorded``: at least one field was new. ``duplicate``: nothing new. ``conflict``: a field was known with
another value; nothing is changed. ``unknown``: no such decision."""


@dataclass(frozen=True)
class SessionTurn:
    """The latest decision of a session.

    Attributes:
        model: what answered.
        timestamp: when, UTC.
        prompt_tokens: length of the conversation then: what the upstream may have cached.
    """

    model: str
    timestamp: datetime
    prompt_tokens: int
