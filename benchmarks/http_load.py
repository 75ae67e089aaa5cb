"""A closed-loop HTTP client that costs little beside the server it measures.

One asyncio protocol a connection writes prepared bytes and reads until ``Content-Length`` is satisfied or the last
chunk has come: about a tenth of the work of a general client, which on few cores would be measured along with the
server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.rotation import rotation


def post(path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a keep-alive POST of JSON."""
    payload = json.dumps(body).encode()
    lines = {"host": "127.0.0.1", "content-type": "application/json", **(headers or {})}
    lines["content-length"] = str(len(payload))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + payload


class _Connection(asyncio.Protocol):
    """A keep-alive connection that notes when an answer's body begins and when it is complete."""

    def __init__(self) -> None:
        self._answer = bytearray()
        self._waiter: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0 or len(self._answer) == end + 4:
            return
        if not self.began:
            self.began = time.perf_counter()
        head = self._answer[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at)
            complete = len(self._answer) >= end + 4 + int(head[at + 15 : stop if stop >= 0 else None])
        else:
            complete = self._answer.endswith(b"0\r\n\r\n")
        if complete and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(bytes(self._answer))

    async def ask(self, request: bytes) -> bytes:
        assert self._transport is not None
        self._answer.clear()
        self.began = 0.0
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        answer = await self._waiter
        status = answer[9:12]
        if status != b"200":
            raise RuntimeError(f"status {status.decode()}: {answer[-300:]!r}")
        return answer

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _connect(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
    return connection


def ask(port: int, request: bytes) -> bytes:
    """Return the body of one answer."""

    async def once() -> bytes:
        connection = await _connect(port)
        answer = await connection.ask(request)
        connection.close()
        return answer[answer.find(b"\r\n\r\n") + 4 :]

    return asyncio.run(once())


def latencies_ms(
    kinds: dict[str, tuple[int, Callable[[], bytes]]], rounds: int, *, first_byte: bool = False
) -> dict[str, list[float]]:
    """Measure every kind once a round, one request at a time, in rotating order.

    Args:
        kinds: port and maker of requests, by name.
        rounds: measured rounds; a tenth as many warm up.
        first_byte: measure to the first byte of the answer's body, not to its end.
    """

    async def measure() -> dict[str, list[float]]:
        connections = {name: await _connect(port) for name, (port, _) in kinds.items()}
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for name, turn in rotation(kinds, rounds):
            request, connection = kinds[name][1](), connections[name]
            started = time.perf_counter()
            await connection.ask(request)
            ended = connection.began if first_byte else time.perf_counter()
            if turn >= 0:
                found[name].append((ended - started) * 1e3)
        for connection in connections.values():
            connection.close()
        return found

    return asyncio.run(measure())


def requests_per_s(port: int, make: Callable[[], bytes], *, clients: int, seconds: float) -> float:
    """Return the rate that ``clients`` closed-loop connections reach."""

    async def loop(end: float) -> int:
        connection = await _connect(port)
        count = 0
        while time.perf_counter() < end:
            await connection.ask(make())
            count += 1
        connection.close()
        return count

    async def measure() -> float:
        started = time.perf_counter()
        counts = await asyncio.gather(*(loop(started + seconds) for _ in range(clients)))
        return sum(counts) / (time.perf_counter() - started)

    return asyncio.run(measure())


def rates(
    kinds: dict[str, tuple[int, Callable[[], bytes]]], *, clients: int, seconds: float, blocks: int
) -> dict[str, float]:
    """Return each kind's median rate over ``blocks`` alternating blocks of ``seconds`` in all."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(blocks):
        for name, (port, make) in kinds.items():
            found[name].append(requests_per_s(port, make, clients=clients, seconds=seconds / blocks))
    return {name: float(np.median(values)) for name, values in found.items()}


def repeated(request: bytes) -> Callable[[], bytes]:
    """Return a maker of the same request every time."""
    return lambda: request


def each(requests: Iterator[bytes]) -> Callable[[], bytes]:
    """Return a maker that takes the next of ``requests``."""
    return lambda: next(requests)
