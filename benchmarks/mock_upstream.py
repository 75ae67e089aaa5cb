"""A provider that answers at once: what gateways are measured in front of.

    python -m benchmarks.mock_upstream --port 9000 --events 20

Speaks just enough HTTP/1.1 to cost little beside the gateway: ``POST`` with ``Content-Length``, answered with a
fixed chat completion, or with a fixed stream of events when the body asks for one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys

_STREAM = re.compile(rb'"stream"\s*:\s*true')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
TEXT = "The largest planet of the Solar System is Jupiter. " * 8
USAGE = {"prompt_tokens": 12, "completion_tokens": 96, "total_tokens": 108}


def whole() -> bytes:
    """Return the answer to a plain request."""
    message = {"role": "assistant", "content": TEXT}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    payload = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def stream(events: int) -> list[bytes]:
    """Return what answers a request for a stream: the head with the first event, the others one by one."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock"}

    def chunk(choices: list[dict[str, object]], **more: object) -> bytes:
        event = b"data: " + json.dumps({**base, "choices": choices, **more}).encode() + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(event), event)

    words = [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]
    blocks = [chunk(words) for _ in range(events)]
    blocks.append(chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    blocks.append(chunk([], usage=USAGE))
    done = b"data: [DONE]\n\n"
    blocks.append(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head + blocks[0], *blocks[1:]]


class Provider(asyncio.Protocol):
    """One connection."""

    def __init__(self, plain: bytes, events: list[bytes]) -> None:
        self._plain = plain
        self._events = events
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._buffer, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            assert self._transport is not None
            if _STREAM.search(body):
                self._send(0)
            else:
                self._transport.write(self._plain)

    def _send(self, number: int) -> None:
        """Send one event and leave the next to the loop's next turn: events arrive one by one."""
        assert self._transport is not None
        self._transport.write(self._events[number])
        if number + 1 < len(self._events):
            asyncio.get_running_loop().call_soon(self._send, number + 1)


async def serve(port: int, events: int) -> None:
    """Answer until standard input closes."""
    plain, blocks = whole(), stream(events)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Provider(plain, blocks), "127.0.0.1", port)
    async with server:
        print(json.dumps({"port": port}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=20)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.events))
    return 0


if __name__ == "__main__":
    sys.exit(main())
