"""How upstreams fail, and what follows from each way of failing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve.api.errors import ApiError
from serve.gateway.answers import refusal_text

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Statuses that may be gone a moment later."""
OPERATORS = frozenset({401, 402, 403, 404, 405, 407})
"""Refusals that lie with key, account or address: the operator's, not the caller's."""

CONTEXT_CODE = "context_length_exceeded"
_CONTEXT_WORDS = (
    "context length",
    "context window",
    "maximum context",
    "prompt is too long",
    "too many tokens",
)

_MESSAGES = {
    "connection": "could not be reached or broke off",
    "connect_timeout": "could not be reached in time",
    "first_byte_timeout": "did not begin to answer in time",
    "read_timeout": "fell silent within its answer",
    "total_timeout": "did not finish in time",
    "bad_json": "answered what is not an answer",
    "error_body": "answered with an error",
    "too_long": "answered more than is allowed",
    "cut": "ended before its answer was complete",
    "rate_limited": "is over its rate limit",
    "open": "failed lately and is left alone for a moment",
}
TIMEOUTS = frozenset({"connect_timeout", "first_byte_timeout", "read_timeout", "total_timeout"})


@dataclass(frozen=True)
class Fault:
    """One failed call.

    Attributes:
        code: short name, as logged: ``connection``, ``http_500``, ``first_byte_timeout`` ...
        again: the same upstream may be tried again.
        elsewhere: another model may be tried; not where the caller's own request is at fault.
        counts: it tells that the upstream is not well.
        wait_s: how long the upstream asked to be left alone.
        status: of the upstream's answer, None when there was none.
        message: the upstream's own words, kept only where the request is at fault and the caller needs them.
    """

    code: str
    again: bool = False
    elsewhere: bool = True
    counts: bool = True
    wait_s: float | None = None
    status: int | None = None
    message: str = ""

    def error(self, model: str) -> ApiError:
        """Return what to tell the caller."""
        if not self.elsewhere or self.code == CONTEXT_CODE:
            code = self.code if self.code == CONTEXT_CODE else "refused_by_model"
            message = self.message or f"model '{model}' refused the request"
            param = "messages" if self.code == CONTEXT_CODE else None
            return ApiError(self.status or 400, code, message, param)
        headers = {} if self.wait_s is None else {"Retry-After": str(max(math.ceil(self.wait_s), 1))}
        status = {"rate_limited": 429, "open": 503}.get(self.code, 504 if self.code in TIMEOUTS else 502)
        why = _MESSAGES.get(self.code, f"answered with status {self.status}")
        return ApiError(
            status, f"upstream_{self.code}", f"model '{model}': its upstream {why}", headers=headers
        )


class UpstreamFailedError(Exception):
    """A call failed."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.code)


def fault_of_status(status: int, body: bytes, wait_s: float | None) -> Fault:
    """Return what an answer other than 200 means.

    Args:
        status: of the answer.
        body: of the answer.
        wait_s: the wait that it asks for.
    """
    code, message = refusal_text(body)
    if status == 429:
        # Without credit no waiting helps.
        return Fault("rate_limited", again=code != "insufficient_quota", wait_s=wait_s, status=status)
    if status in AGAIN:
        return Fault(f"http_{status}", again=True, wait_s=wait_s, status=status)
    if not 400 <= status < 500 or status in OPERATORS:
        return Fault(f"http_{status}", status=status)
    if code == CONTEXT_CODE or any(words in message.lower() for words in _CONTEXT_WORDS):
        return Fault(CONTEXT_CODE, counts=False, status=400, message=message)
    return Fault(f"http_{status}", elsewhere=False, counts=False, status=status, message=message)
