"""Calls to upstreams: one connection pool per replica, every wait limited, answers handed on as they come.

aiohttp rather than httpx: a small POST costs it a fifth of the processor time (``docs/gateway.md``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType

import aiohttp

from serve.gateway.answers import BadAnswerError, EventStream, Usage, read_answer
from serve.gateway.backoff import retry_after_s
from serve.gateway.faults import Fault, UpstreamFailedError, fault_of_status
from serve.gateway.request import Call
from serve.gateway.upstreams import Upstream
from serve.settings.gateway import GatewaySettings

MAX_ERROR_BYTES = 64 * 1024
"""How much of a refusal is read."""

CLOSING_S = 0.1
"""How long an upstream may take to close an answer after its last event, for its connection to be kept."""


@dataclass(frozen=True)
class Whole:
    """A complete answer, as it came.

    Attributes:
        body: its bytes.
        usage: token counts, None when it gives none.
    """

    body: bytes
    usage: Usage | None


class Stream:
    """An answer that comes in events.

    Attributes:
        first: the events that came with the first.
        events: what is known of the stream so far.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, events: EventStream, read_timeout_s: float, deadline: float
    ) -> None:
        self.first = b""
        self.events = events
        self._response = response
        self._read_timeout_s = read_timeout_s
        self._deadline = deadline
        self._fault: str | None = None
        self._over = False

    async def begin(self) -> None:
        """Wait for the first event.

        Raises:
            UpstreamFailedError: there is none, or what came with it is no answer.
        """
        while not self.events.events and self._fault is None:
            self.first += await self._read()
        if self._fault is not None:
            raise UpstreamFailedError(Fault(self._fault, again=True))

    async def next(self) -> bytes:
        """Return what arrived next, empty at the end.

        Raises:
            UpstreamFailedError: the stream broke; what came before has been returned.
        """
        block = b""
        # An event that arrives in pieces yields nothing until it is whole.
        while not block and not self._over and self._fault is None:
            async with _Limit(self._read_timeout_s, self._deadline, "read_timeout"):
                block = await self._read()
        if not block and self._fault is not None:
            raise UpstreamFailedError(Fault(self._fault))
        return block

    def close(self) -> None:
        """Let go: a finished stream gives its connection back, any other ends the call at the upstream."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def _read(self) -> bytes:
        content = self._response.content
        if self.events.ended:
            # All has been said; the connection can be used again if the upstream closes the answer at once.
            with suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(CLOSING_S):
                    while await content.readany():
                        pass
            self._over = True
            return b""
        try:
            data = await content.readany()
        except aiohttp.ClientError:
            self._fault = "cut"
            return b""
        if data:
            block, self._fault = self.events.feed(data)
        else:
            self._over = True
            block, self._fault = self.events.finish()
        return block


class UpstreamClient:
    """Sends calls to upstreams.

    Args:
        settings: of the gateway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._max_answer_bytes = int(settings.max_answer_mb * 2**20)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connection pool open."""
        connector = aiohttp.TCPConnector(
            limit=self._settings.max_connections,
            keepalive_timeout=self._settings.keepalive_s,
            ttl_dns_cache=60,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s),
            headers={"User-Agent": "tradewind", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._settings.trust_env,
        )
        try:
            async with self._session:
                yield
        finally:
            self._session = None

    async def send(self, upstream: Upstream, call: Call, deadline: float) -> Whole | Stream:
        """Return a complete answer, or a stream with its first event.

        Args:
            upstream: where to.
            call: the request.
            deadline: time of the event loop at which everything must be over.

        Raises:
            UpstreamFailedError: there is no usable answer.
        """
        response: aiohttp.ClientResponse | None = None
        try:
            async with _Limit(self._settings.first_byte_timeout_s, deadline, "first_byte_timeout"):
                response = await self._post(upstream, call)
                if response.status != 200:
                    raise UpstreamFailedError(await _refusal(response, upstream))
                if call.stream:
                    events = EventStream(drop_usage=not call.wants_usage)
                    stream = Stream(response, events, self._settings.read_timeout_s, deadline)
                    await stream.begin()
                    return stream
            body = await self._body(response, deadline)
            whole = Whole(body, read_answer(body))
        except BaseException as error:
            if response is not None:
                response.close()
            raise _as_fault(error) from None
        response.release()
        return whole

    async def _post(self, upstream: Upstream, call: Call) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the gateway is not running")
        return await self._session.post(
            upstream.urls[call.kind],
            data=call.body(upstream.model, upstream.stream_usage),
            headers=upstream.stream_headers if call.stream else upstream.headers,
            allow_redirects=False,
        )

    async def _body(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        content = response.content
        blocks: list[bytes] = []
        size = 0
        while not content.at_eof():
            if content.is_eof():
                # Mostly the whole answer came with its head: nothing to wait for.
                block = content.read_nowait()
            else:
                async with _Limit(self._settings.read_timeout_s, deadline, "read_timeout"):
                    block = await content.readany()
            blocks.append(block)
            size += len(block)
            if size > self._max_answer_bytes:
                raise UpstreamFailedError(Fault("too_long", counts=False))
        return b"".join(blocks)


async def _refusal(response: aiohttp.ClientResponse, upstream: Upstream) -> Fault:
    body = b""
    with suppress(aiohttp.ClientError):
        while len(body) < MAX_ERROR_BYTES and (block := await response.content.readany()):
            body += block
    headers = {name.lower(): value for name, value in response.headers.items()}
    fault = fault_of_status(response.status, body, retry_after_s(headers))
    return replace(fault, message=upstream.redacted(fault.message))


def _as_fault(error: BaseException) -> BaseException:
    if isinstance(error, BadAnswerError):
        return UpstreamFailedError(Fault(error.code, again=True))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFailedError(Fault("connect_timeout"))
    if isinstance(error, aiohttp.ClientError):
        return UpstreamFailedError(Fault("connection", again=True))
    return error


class _Limit:
    """Ends a block after ``seconds``, or at ``deadline`` if that comes first, as an upstream's fault ``code``."""

    def __init__(self, seconds: float, deadline: float, code: str) -> None:
        end = asyncio.get_running_loop().time() + seconds
        self._timeout = asyncio.timeout_at(min(end, deadline))
        self._code = code if end <= deadline else "total_timeout"

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, where)
        except TimeoutError:
            raise UpstreamFailedError(Fault(self._code)) from None
