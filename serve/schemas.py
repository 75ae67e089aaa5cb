"""Requests and answers of the HTTP API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from policies.preference import normalise_preference

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]

MAX_TOKENS = 100_000_000
MAX_INPUTS = 256
"""Requests of one batch."""


class ContentPart(BaseModel):
    """One part of a message; only the text of text parts is read."""

    model_config = ConfigDict(strict=True, frozen=True)

    type: str
    text: str | None = None


class Message(BaseModel):
    """One turn of a conversation, as chat clients send it; fields that routing does not read are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        """Return the message's text, empty when it has none."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if part.type == "text" and part.text)


Scalar = Annotated[str, Field(max_length=1024)] | bool | int | FiniteFloat | None
LabelName = Annotated[str, Field(min_length=1, max_length=64)]


class RouteRequest(BaseModel):
    """Ask which model should answer a prompt, or the next turn of a conversation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    prompt: str | None = Field(default=None, description="the prompt; give this, messages or an embedding")
    messages: list[Message] | None = Field(default=None, min_length=1, description="the conversation so far")
    embedding: list[FiniteFloat] | None = Field(
        default=None,
        min_length=1,
        description="vector of the served encoder, of length 1; alone, or with the text it was made of",
    )
    prompt_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="length of the prompt; null: estimated from its text"
    )
    w_cost: Weight | None = Field(
        default=None,
        description="the dial: 0 asks for quality alone, 1 for low cost alone; at most 1 when w_quality is absent",
    )
    w_quality: Weight | None = Field(
        default=None, description="with w_cost: two weights, normalised to sum to one; null means 1 - w_cost"
    )
    preference: str | None = Field(
        default=None, description="a named setting of the dial, in place of w_cost"
    )
    models: list[str] | None = Field(
        default=None, min_length=1, description="models to choose from; null means all"
    )
    exclude: list[str] = Field(default=[], description="models not to choose")
    needs: list[LabelName] = Field(
        default=[], max_length=16, description="tags that the model must have, where its tags are known"
    )
    completion_tokens: int = Field(
        default=0, ge=0, le=MAX_TOKENS, description="room that the answer must have in the context window"
    )
    max_cost_usd: Weight | None = Field(default=None, description="highest expected cost of the call")
    max_latency_s: Weight | None = Field(
        default=None, description="longest expected latency; models whose latency is not known are kept"
    )
    session_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="conversation; it stays with its model while that pays",
    )
    metadata: dict[LabelName, Scalar] = Field(
        default={}, max_length=32, description="your own labels, kept with the decision"
    )

    @model_validator(mode="after")
    def _consistent(self) -> RouteRequest:
        if self.prompt is not None and self.messages is not None:
            raise _problem("prompt", "give one of prompt and messages, not both")
        if self.prompt is None and self.messages is None and self.embedding is None:
            raise _problem("prompt", "give one of prompt, messages and embedding")
        if self.prompt is not None and not self.prompt.strip():
            raise _problem("prompt", "must not be empty")
        if self.messages is not None and not any(message.text().strip() for message in self.messages):
            raise _problem("messages", "at least one message must have text")
        if self.models is not None and len(set(self.models)) != len(self.models):
            raise _problem("models", "names a model twice")
        if self.preference is not None and (self.w_cost is not None or self.w_quality is not None):
            raise _problem("preference", "give a named preference or weights, not both")
        if self.preference is None:
            if self.w_cost is None:
                raise _problem("w_cost", "give w_cost, or preference with the name of a preset")
            try:
                normalise_preference(self.w_quality, self.w_cost)
            except ValueError as error:
                raise _problem("w_cost", str(error)) from None
        return self


def _problem(field: str, why: str) -> PydanticCustomError:
    return PydanticCustomError("inconsistent", "{why}", {"field": field, "why": why})


class BatchRequest(BaseModel):
    """Several requests, decided together; each fails on its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    inputs: list[dict[str, Any]] = Field(
        min_length=1, max_length=MAX_INPUTS, description="as single requests"
    )


class Preference(BaseModel):
    """The preference that was applied; the weights sum to one."""

    w_quality: float
    w_cost: float


class RouteAnswer(BaseModel):
    """A decision.

    ``propensity`` is the probability with which this endpoint chose ``model`` among the eligible ones, exploration
    included. Costs are expected USD for the call; a latency that nobody measured is null, and so are scores of a
    policy that predicts none, and of a request that leaves one model to choose from: its prompt is not read.
    """

    decision_id: str = Field(description="to report feedback with")
    policy_version: str
    release: str = Field(description="champion or canary")
    model: str
    propensity: float
    probabilities: dict[str, float] = Field(description="the policy's distribution over eligible models")
    expected_score: float | None = Field(description="of the chosen model, in [0, 1]")
    expected_scores: dict[str, float] | None = Field(description="of every eligible model")
    expected_cost_usd: float = Field(description="of the chosen model")
    expected_costs_usd: dict[str, float] = Field(description="of every eligible model")
    expected_latency_s: float | None = Field(description="of the chosen model")
    expected_latencies_s: dict[str, float | None] = Field(description="of every eligible model")
    preference: Preference
    ineligible: dict[str, str] = Field(description="models that were asked for but cannot take it, and why")
    kept_for_session: bool = Field(
        description="the session stays with its model; a lone request would have gone to another"
    )


class ModelInfo(BaseModel):
    """What a request may name as its model. Prices in USD, of a million tokens or a call; the router has none."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when it was loaded here, Unix seconds")
    owned_by: str = Field(description="tradewind: the router itself; else the name of the model's pool")
    input_price_per_mtok_usd: float | None = None
    output_price_per_mtok_usd: float | None = None
    price_per_call_usd: float | None = Field(default=None, description="beside what its tokens cost")
    kind: Literal["model", "tool"] = Field(
        default="model", description="a language model, or a tool or an API"
    )
    context_window_tokens: int | None = None
    tags: list[str] = []


class ModelsAnswer(BaseModel):
    """The router under each of its names, and the models that may be chosen."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]
    policy_version: str


class HealthAnswer(BaseModel):
    """The replica answers; which policy it decides with."""

    status: Literal["ok"] = "ok"
    policy_version: str
    policy_kind: str
    encoder: str
    models: int


class ErrorDetail(BaseModel):
    """One thing that is wrong; ``param`` is the field's path in the request."""

    param: str | None
    message: str


class ErrorBody(BaseModel):
    """What went wrong, in the shape that chat clients know, plus every detail."""

    type: str
    code: str
    message: str
    param: str | None = None
    details: list[ErrorDetail] = []


class ErrorAnswer(BaseModel):
    """Body of every answer that is not 200."""

    error: ErrorBody


class BatchAnswer(BaseModel):
    """Answers in the order of the inputs."""

    answers: list[RouteAnswer | ErrorAnswer]


class FeedbackRequest(BaseModel):
    """Tell what came of a decision. What is not known yet may follow in further requests."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    decision_id: str = Field(min_length=1, max_length=128)
    score: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | None = Field(
        default=None, description="quality of the answer"
    )
    cost_usd: Weight | None = None
    prompt_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    completion_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    latency_s: Weight | None = None
    error: str | None = Field(
        default=None, min_length=1, max_length=128, description="short code, when the call failed"
    )

    @model_validator(mode="after")
    def _something(self) -> FeedbackRequest:
        if all(getattr(self, name) is None for name in type(self).model_fields if name != "decision_id"):
            raise _problem(
                "score",
                "tell at least one of score, cost_usd, prompt_tokens, completion_tokens, latency_s and error",
            )
        return self


class FeedbackAnswer(BaseModel):
    """``recorded``: something was new and is on disk. ``duplicate``: all of it was known."""

    decision_id: str
    status: Literal["recorded", "duplicate"]


class OutcomeAnswer(BaseModel):
    """What is known of a call; null where it is not."""

    score: float | None
    cost_usd: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float | None
    error: str | None


class DecisionAnswer(BaseModel):
    """A decision of the log with what came of it."""

    decision_id: str
    timestamp: datetime
    prompt_id: str
    model: str
    propensity: float
    eligible: list[str]
    preference: Preference
    policy_version: str
    release: str
    prompt_tokens: int
    expected_score: float | None
    expected_cost_usd: float
    best_cost_usd: float = Field(description="expected, had always-best answered")
    key_id: str | None
    session_id: str | None
    retry_of: str | None
    metadata: dict[str, Any]
    outcome: OutcomeAnswer


def openapi_components() -> dict[str, Any]:
    """Return the JSON schemas of request bodies and those they refer to, by name."""
    found: dict[str, Any] = {}
    for model in (RouteRequest, BatchRequest, FeedbackRequest):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= {**schema.pop("$defs", {}), model.__name__: schema}
    return found
