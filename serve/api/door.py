"""What every request passes first: a bounded number at a time, a key, a limit, a size; and what every answer gets."""

from __future__ import annotations

import logging
import time
import traceback
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access.access import Access, retry_after
from serve.access.caller import Caller
from serve.api.errors import ApiError, json_answer
from serve.metrics import Metrics
from serve.schemas import ErrorAnswer

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"
ADMIN_PREFIX = "/admin"
PAGES = ("/", "/console")
"""Where browsers go: they ask for the key, as the password of HTTP Basic."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
API_HEADERS = (*SECURITY_HEADERS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
PAGE_HEADERS = (*SECURITY_HEADERS, (b"content-security-policy", b"frame-ancestors 'none'"))
"""What an answer gets unless it says otherwise itself."""

OVERLOAD_RETRY_S = 1.0
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Door:
    """ASGI middleware before all routes.

    Args:
        app: what is behind it.
        access: checks callers.
        metrics: counts refusals and times requests.
        max_in_flight: more requests at a time are refused with 503 at once: waiting longer helps nobody.
        max_body_bytes: longer requests are refused, unread where their length is told.
    """

    def __init__(
        self, app: ASGIApp, access: Access, metrics: Metrics, max_in_flight: int, max_body_bytes: int
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._max_body_bytes = max_body_bytes
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        if _path(scope) == HEALTH_PATH:
            # Even of a full replica: being busy is no illness.
            await self._app(scope, receive, answer)
            return
        tracing = self._metrics.tracing
        if tracing is None:
            await self._answer(scope, receive, answer)
            return
        with tracing.request(scope["method"], _path(scope), Headers(scope=scope)) as span:
            await self._answer(scope, receive, answer)
            tracing.answered(span, answer.status)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        started = time.perf_counter()
        self._in_flight += 1
        self._metrics.set_in_flight(self._in_flight)
        try:
            await self._enter(scope, receive, answer)
        except ApiError as refusal:
            scope.setdefault("state", {})["error_code"] = refusal.body.code
            if answer.status is None:
                response = json_answer(ErrorAnswer(error=refusal.body), refusal.status, refusal.headers)
                await response(scope, receive, answer)
        except Exception as error:
            await self._fail(error, scope, receive, answer)
        finally:
            self._in_flight -= 1
            self._metrics.set_in_flight(self._in_flight)
            self._metrics.stage("request", time.perf_counter() - started)
            if answer.status is None or answer.status >= 400:
                status = "disconnected" if answer.status is None else f"http_{answer.status}"
                self._metrics.refused(scope.get("state", {}).get("error_code", status))

    async def _enter(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        caller = self._identify(scope, headers)
        # After the key and before anything that costs: strangers must not learn how busy we are.
        if self._in_flight > self._max_in_flight:
            raise ApiError(
                503, "overloaded", "too many requests at a time", headers=retry_after(OVERLOAD_RETRY_S)
            )
        await self._access.admit(caller)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_long()
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, self._limited(receive), answer)

    def _identify(self, scope: Scope, headers: Headers) -> Caller:
        try:
            caller = self._access.authenticate(headers)
        except ApiError as error:
            path = _path(scope)
            is_page = path in ("", "/") or path.startswith(PAGES[1:])
            kind = 'Basic realm="Tradewind: the API key is the password", charset="UTF-8"'
            error.headers["WWW-Authenticate"] = kind if is_page else 'Bearer realm="Tradewind"'
            raise
        path = _path(scope)
        is_admin = path == ADMIN_PREFIX or path.startswith(ADMIN_PREFIX + "/")
        role = "admin" if is_admin else "route"
        if role not in caller.roles:
            raise ApiError(403, "role_missing", f"key '{caller.name}' lacks the role '{role}'")
        if scope["method"] not in SAFE_METHODS and headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            # A browser repeats a page's key to us for any page: another site's must not act in its user's name.
            raise ApiError(403, "cross_site", "requests from other sites' pages are not taken")
        return caller

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._max_body_bytes:
                    raise self._too_long()
            return message

        return limited

    def _too_long(self) -> ApiError:
        return ApiError(413, "too_long", f"body too long; allowed: at most {self._max_body_bytes} bytes")

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, answer: _Answer) -> None:
        incident = uuid.uuid4().hex[:12]
        scope.setdefault("state", {})["error_code"] = "internal_error"
        # Where, but not the error's own words: they may quote a prompt or a key.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error(
            "incident %s: %s %s: %s\n%s", incident, scope["method"], scope["path"], _kinds(error), frames
        )
        if answer.status is None:
            refusal = ApiError(500, "internal_error", f"something went wrong here; incident {incident}")
            await json_answer(ErrorAnswer(error=refusal.body), 500)(scope, receive, answer)


class _Answer:
    """Sends an answer on with the headers that every answer has, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = dict(message.get("headers", ()))
            is_page = own.get(b"content-type", b"").startswith(b"text/html")
            ours = PAGE_HEADERS if is_page else API_HEADERS
            message["headers"] = [*message.get("headers", ()), *(pair for pair in ours if pair[0] not in own)]
        await self._send(message)


def _path(scope: Scope) -> str:
    """Return the path below the application's prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _kinds(error: BaseException) -> str:
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < 5:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return " from ".join(names)
