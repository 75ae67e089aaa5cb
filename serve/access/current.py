"""The caller of the request at hand, as the middleware found it."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from serve.access.caller import ANYONE, Caller


def caller_of(request: HTTPConnection) -> Caller:
    """Return who sent a request; :data:`ANYONE` when keys are off."""
    caller = getattr(request.state, "caller", ANYONE)
    assert isinstance(caller, Caller)
    return caller
