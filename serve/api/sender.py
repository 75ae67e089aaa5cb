"""What a request says beside its body: whose it is and which policy it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from serve.access.current import caller_of

POLICY_HEADER = "x-tradewind-policy-version"


@dataclass(frozen=True)
class Sender:
    """Where a question comes from.

    Attributes:
        key_id: whose request it is, None without API keys.
        policy_version: the version that must decide, None for whichever is in charge.
    """

    key_id: str | None
    policy_version: str | None


def sender_of(request: HTTPConnection) -> Sender:
    """Return where a request comes from."""
    return Sender(caller_of(request).key_id, request.headers.get(POLICY_HEADER) or None)
