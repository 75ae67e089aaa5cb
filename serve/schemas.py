"""Requests and answers of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from policies.preference import normalise_preference

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


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


class RouteRequest(BaseModel):
    """Ask which model should answer a prompt, or the next turn of a conversation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    prompt: str | None = Field(default=None, description="the prompt; give this or messages")
    messages: list[Message] | None = Field(default=None, min_length=1, description="the conversation so far")
    w_cost: Weight = Field(
        description="the dial: 0 asks for quality alone, 1 for low cost alone; at most 1 when w_quality is absent"
    )
    w_quality: Weight | None = Field(
        default=None, description="with w_cost: two weights, normalised to sum to one; null means 1 - w_cost"
    )
    models: list[str] | None = Field(
        default=None, min_length=1, description="models to choose from; null means all"
    )

    @model_validator(mode="after")
    def _consistent(self) -> RouteRequest:
        if (self.prompt is None) == (self.messages is None):
            given = "neither" if self.prompt is None else "both"
            raise PydanticCustomError(
                "prompt_or_messages",
                "give exactly one of prompt and messages, not {given}",
                {"field": "prompt", "given": given},
            )
        if self.prompt is not None and not self.prompt.strip():
            raise PydanticCustomError("empty_prompt", "must not be empty", {"field": "prompt"})
        if self.messages is not None and not any(message.text().strip() for message in self.messages):
            raise PydanticCustomError(
                "empty_messages", "at least one message must have text", {"field": "messages"}
            )
        if self.models is not None and len(set(self.models)) != len(self.models):
            raise PydanticCustomError("duplicate_models", "names a model twice", {"field": "models"})
        try:
            normalise_preference(self.w_quality, self.w_cost)
        except ValueError as error:
            raise PydanticCustomError("preference", "{why}", {"field": "w_cost", "why": str(error)}) from None
        return self

    @property
    def preference(self) -> tuple[float, float]:
        """(w_quality, w_cost) on the simplex."""
        return normalise_preference(self.w_quality, self.w_cost)


class Preference(BaseModel):
    """The preference that was applied; the weights sum to one."""

    w_quality: float
    w_cost: float


class RouteAnswer(BaseModel):
    """A decision.

    ``propensity`` is the probability with which this endpoint chose ``model``: 1 when it takes the most
    probable one, else the policy's probability. Costs are expected USD for the call.
    """

    decision_id: str
    policy_version: str
    model: str
    propensity: float
    probabilities: dict[str, float] = Field(description="the policy's distribution over eligible models")
    expected_cost_usd: float = Field(description="of the chosen model")
    expected_costs_usd: dict[str, float] = Field(description="of every eligible model")
    preference: Preference
    ineligible: dict[str, str] = Field(description="models that were asked for but cannot take it, and why")


class ModelInfo(BaseModel):
    """A model of the pool. Prices in USD per million tokens."""

    id: str
    object: Literal["model"] = "model"
    input_price_per_mtok_usd: float
    output_price_per_mtok_usd: float
    context_window_tokens: int | None
    tags: list[str]


class ModelsAnswer(BaseModel):
    """The models that may be chosen."""

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


def openapi_components() -> dict[str, Any]:
    """Return the request's JSON schema and those it refers to, by name."""
    schema = RouteRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), RouteRequest.__name__: schema}
