"""What upstreams answer: token counts and faults are read beside the bytes, which go to the caller as they came."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

MAX_EVENT_BYTES = 16 * 2**20
"""A longer event of a stream is taken for garbage."""

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_NULL = msgspec.Raw(b"null")


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one call, as the upstream counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _Refusal(msgspec.Struct):
    code: str | int | None = None
    message: str | None = None
    type: str | None = None


class _RefusalBody(msgspec.Struct):
    error: _Refusal


_ANSWER = msgspec.json.Decoder(_Answer)
_USAGE = msgspec.json.Decoder(Usage)
_REFUSAL = msgspec.json.Decoder(_RefusalBody)


class BadAnswerError(ValueError):
    """An upstream answered what is not an answer."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


def read_answer(body: bytes) -> Usage | None:
    """Return the token counts of a complete answer, None when it has none.

    Raises:
        BadAnswerError: ``bad_json``, or ``error_body`` when it is an error in spite of its status.
    """
    answer = _answer(body)
    if answer.choices is None:
        raise BadAnswerError("bad_json")
    return _usage(answer.usage)


def refusal_text(body: bytes) -> tuple[str, str]:
    """Return code and message of an error body, empty where it has none that can be read."""
    try:
        error = _REFUSAL.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", ""
    return str(error.code or error.type or ""), error.message or ""


@dataclass
class EventStream:
    """Reads a stream of server-sent events on its way through.

    Whole events are handed on at once; only the beginning of one is held back until its end has come, since
    no client can use it and a cut within it could not be told apart from it.

    Attributes:
        drop_usage: leave out the closing event with nothing but token counts, which the caller did not ask for.
        usage: token counts seen so far.
        ended: the stream said that it is complete.
        events: whole events seen, comments left out.
    """

    drop_usage: bool
    usage: Usage | None = None
    ended: bool = False
    events: int = 0
    _finished: bool = False
    _begun: bytes = b""

    def finish(self) -> tuple[bytes, str | None]:
        """Take the end of the stream; as :meth:`feed`, with the fault ``cut`` when it came too early.

        A stream is whole when it said so (``[DONE]``) or gave a reason for finishing.
        """
        block, fault = self.feed(b"\n\n") if self._begun.strip() else (b"", None)
        if fault is None and not (self.ended or self._finished):
            fault = "cut"
        return block, "cut" if fault else None

    def feed(self, data: bytes) -> tuple[bytes, str | None]:
        """Take what arrived and return what may go to the caller, and a fault's code if the stream is broken.

        What precedes a fault may go to the caller; nothing may follow.
        """
        if self._begun:
            data = self._begun + data
        start = 0
        kept: list[bytes] = []
        kept_from = 0
        for end in _EVENT_END.finditer(data):
            event = data[start : end.start()]
            try:
                passes = self._read(event)
            except BadAnswerError as error:
                kept.append(data[kept_from:start])
                self._begun = b""
                return b"".join(kept), error.code
            if not passes:
                kept.append(data[kept_from:start])
                kept_from = end.end()
            start = end.end()
        self._begun = data[start:]
        if len(self._begun) > MAX_EVENT_BYTES:
            return b"", "bad_json"
        kept.append(data[kept_from:start])
        return b"".join(kept), None

    def _read(self, event: bytes) -> bool:
        """Note what an event says and return whether it goes to the caller."""
        payload = _payload(event)
        if not payload:
            return True
        self.events += 1
        if payload == b"[DONE]":
            self.ended = True
            return True
        answer = _answer(payload)
        usage = _usage(answer.usage)
        if usage is not None:
            self.usage = usage
        if answer.choices:
            self._finished = self._finished or any(choice.finish_reason for choice in answer.choices)
            return True
        return not (self.drop_usage and usage is not None and answer.choices is not None)


def _payload(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)


def _answer(body: bytes) -> _Answer:
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadAnswerError("bad_json") from None
    if answer.error != _NULL:
        raise BadAnswerError("error_body")
    return answer


def _usage(raw: msgspec.Raw) -> Usage | None:
    if raw == _NULL:
        return None
    try:
        return _USAGE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
