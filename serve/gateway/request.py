"""What a chat or completion request asks for: only what routing and forwarding need is read.

The body is split into its top-level fields once; those that are not read are never decoded, and what goes to the
upstream is the caller's own bytes with ``model`` (and, for streams, ``stream_options``) replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from policies.costs import estimate_tokens
from serve.api.errors import ApiError

Kind = Literal["chat/completions", "completions"]

IMAGE_TOKENS = 800
"""What an image adds to a prompt, roughly: providers count 85 to 1,600 tokens by size."""

JSON_FORMATS = ("json_object", "json_schema")
NEEDS_OF_PARTS = {"image_url": "vision", "input_audio": "audio", "file": "files"}
"""Tags of the pool that parts of messages need, by type of part."""


class _Typed(msgspec.Struct):
    type: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct):
    """One turn; only role and text are read."""

    role: str
    content: str | list[_Part] | None = None

    def text(self) -> str:
        """Return the message's text, empty when it has none."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content if part.type == "text" and part.text)


@dataclass(frozen=True)
class Call:
    """A checked request.

    Attributes:
        kind: path below the base URL.
        model: as the caller named it.
        messages: the conversation; a completion's prompts are user turns.
        stream: whether the answer is to come as events.
        wants_usage: whether the caller asked for the usage event of a stream.
        needs: capabilities it makes use of (``tools``, ``json``, ``vision`` ...).
        prompt_tokens: estimate of what the model would be sent.
        completion_tokens: longest answer it allows, None when it does not say.
        metadata: the caller's labels.
    """

    kind: Kind
    model: str
    messages: tuple[ChatMessage, ...]
    stream: bool
    wants_usage: bool
    needs: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int | None
    metadata: dict[str, Any] = field(default_factory=dict)
    _fields: dict[str, msgspec.Raw] = field(default_factory=dict, repr=False)

    def body(self, model: str, stream_usage: bool) -> bytes:
        """Return the request for an upstream.

        Args:
            model: its name there.
            stream_usage: whether to ask for token counts at the end of a stream.
        """
        fields: dict[str, Any] = {**self._fields, "model": model}
        if self.stream and stream_usage and not self.wants_usage:
            options = msgspec.json.decode(
                fields.get("stream_options", b"{}"), type=dict[str, msgspec.Raw] | None
            )
            fields["stream_options"] = {**(options or {}), "include_usage": _TRUE}
        return _ENCODE(fields)


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: dict[str, msgspec.Raw] | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: _Typed | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, Any] | None = None


class _ChatBody(_Body, kw_only=True):
    messages: list[ChatMessage]


class _TextBody(_Body, kw_only=True):
    prompt: str | list[str | int | list[int]]


_READ: dict[Kind, msgspec.json.Decoder[Any]] = {
    "chat/completions": msgspec.json.Decoder(_ChatBody),
    "completions": msgspec.json.Decoder(_TextBody),
}
_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode
_TRUE = msgspec.Raw(b"true")


def read_call(kind: Kind, body: bytes) -> Call:
    """Return a checked request.

    Raises:
        ApiError: 400, naming the field; what was sent is not repeated.
    """
    try:
        read = _READ[kind].decode(body)
        fields = _SPLIT.decode(body)
    except msgspec.ValidationError as error:
        # Its text names types and the path, never a value.
        message, _, path = str(error).partition(" - at `$")
        where = path.strip(".`") or None
        raise _bad(f"{where}: {message}" if where else message, where) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _bad("the body is not JSON in UTF-8", None) from None
    messages = read.messages if kind == "chat/completions" else _turns(read.prompt)
    if not messages:
        raise _bad("messages: must not be empty", "messages")
    needs, extra_tokens = _needs(read, fields, messages)
    characters = sum(len(message.text()) for message in messages)
    return Call(
        kind=kind,
        model=read.model,
        messages=tuple(messages),
        stream=bool(read.stream),
        wants_usage=(read.stream_options or {}).get("include_usage") == _TRUE,
        needs=needs,
        prompt_tokens=estimate_tokens(characters) + extra_tokens,
        completion_tokens=_completion_tokens(read),
        metadata=read.metadata or {},
        _fields=fields,
    )


def _turns(prompt: str | list[str | int | list[int]]) -> list[ChatMessage]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    turns = [ChatMessage("user", text) for text in prompts if isinstance(text, str)]
    if len(turns) != len(prompts) or not turns:
        raise _bad("prompt: must be a string or strings; tokens cannot be read here", "prompt")
    return turns


def _needs(
    read: _Body, fields: dict[str, msgspec.Raw], messages: Sequence[ChatMessage]
) -> tuple[tuple[str, ...], int]:
    needs: dict[str, None] = {}
    tokens = 0
    for name, value in (("tools", read.tools), ("functions", read.functions)):
        if value:
            needs["tools"] = None
            tokens += estimate_tokens(len(bytes(fields[name])))
    if read.response_format is not None and read.response_format.type in JSON_FORMATS:
        needs["json"] = None
    for message in messages:
        if isinstance(message.content, list):
            for part in message.content:
                if (need := NEEDS_OF_PARTS.get(part.type)) is not None:
                    needs[need] = None
                    tokens += IMAGE_TOKENS if need == "vision" else 0
    return tuple(needs), tokens


def _completion_tokens(read: _Body) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = getattr(read, name)
        if value is not None:
            if value < 1:
                raise _bad(f"{name}: {value}; allowed: 1 or more", name)
            return int(value)
    return None


def _bad(message: str, param: str | None) -> ApiError:
    return ApiError(400, "invalid_request", message, param)
