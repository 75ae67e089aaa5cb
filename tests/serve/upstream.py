"""A real HTTP server on loopback that behaves like an OpenAI-compatible provider, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

KEY = "sk-upstream-secret-0123456789"


@dataclass(frozen=True)
class Fault:
    """How the next answer goes wrong; without anything set it does not.

    Attributes:
        status: answer with that status.
        body: of that answer, or in place of a proper one.
        headers: of that answer.
        delay_s: silence before the first byte.
        reset: break the connection before anything is answered.
        cut_after: break the connection after so many events of a stream, in the middle of the next.
        stall_after: fall silent after so many events.
        end_after: end the stream as if it were complete after so many events.
        event_after: send ``body`` as an event after so many events.
        pieces: send each event in that many pieces.
    """

    status: int = 200
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    reset: bool = False
    cut_after: int | None = None
    stall_after: int | None = None
    end_after: int | None = None
    event_after: int | None = None
    pieces: int = 1


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    model: str
    body: dict[str, Any]
    raw: bytes
    headers: dict[str, str]
    at: float


class UpstreamServer:
    """Answers ``/v1/chat/completions`` and ``/v1/completions`` by repeating the last user turn.

    Attributes:
        seen: requests so far.
        left: how many callers left before their answer was complete.
        gap_s: pause between the events of a stream.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget requests and faults."""
        self.seen: list[Seen] = []
        self.left = 0
        self.gap_s = 0.0
        self._next: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def next(self, model: str, *faults: Fault) -> None:
        """Answer the next requests for a model so, one each."""
        self._next[model].extend(faults)

    def always(self, model: str, fault: Fault | None) -> None:
        """Answer all requests for a model so, until told otherwise."""
        self._always.pop(model, None)
        if fault is not None:
            self._always[model] = fault

    def models(self) -> list[str]:
        """Return the models that were asked for, in order."""
        return [seen.model for seen in self.seen]

    def wait_for_left(self, count: int, seconds: float = 5.0) -> bool:
        """Return whether so many callers leave within the time."""
        end = time.monotonic() + seconds
        while self.left < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.left >= count

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._runner is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        model = body["model"]
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(model, body, raw, headers, time.monotonic()))
        waiting = self._next[model]
        fault = waiting.popleft() if waiting else self._always.get(model, Fault())
        try:
            return await self._behave(request, body, fault)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left += 1
            raise

    async def _behave(self, request: web.Request, body: dict[str, Any], fault: Fault) -> web.StreamResponse:
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.reset:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        chat = request.path.endswith("chat/completions")
        if fault.status != 200 or (fault.body is not None and fault.event_after is None):
            text = fault.body or json.dumps({"error": {"message": "upstream trouble", "code": "trouble"}})
            return web.Response(
                status=fault.status, text=text, headers=fault.headers, content_type="application/json"
            )
        if body.get("stream"):
            return await self._stream(request, body, chat, fault)
        return web.json_response(_whole(body, chat))

    async def _stream(
        self, request: web.Request, body: dict[str, Any], chat: bool, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number, event in enumerate(_events(body, chat)):
            if number == fault.cut_after:
                await response.write(event[: len(event) // 2])
                assert request.transport is not None
                # What was written leaves before the connection breaks.
                await asyncio.sleep(0.05)
                request.transport.abort()
                return response
            if number == fault.stall_after:
                await asyncio.sleep(60)
            if number == fault.end_after:
                break
            if number == fault.event_after:
                await response.write(b"data: " + (fault.body or "").encode() + b"\n\n")
            size = -(-len(event) // fault.pieces)
            for start in range(0, len(event), size):
                await response.write(event[start : start + size])
                if fault.pieces > 1:
                    await asyncio.sleep(0.005)
            if self.gap_s:
                await asyncio.sleep(self.gap_s)
        await response.write_eof()
        return response


def _text(body: dict[str, Any], chat: bool) -> str:
    if not chat:
        prompt = body["prompt"]
        return prompt if isinstance(prompt, str) else "|".join(prompt)
    content = [m for m in body["messages"] if m["role"] == "user"][-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _usage(body: dict[str, Any], chat: bool) -> dict[str, int]:
    words = len(_text(body, chat).split())
    return {"prompt_tokens": words + 3, "completion_tokens": words, "total_tokens": 2 * words + 3}


def _message(body: dict[str, Any]) -> dict[str, Any]:
    text = _text(body, True)
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        function = {"name": name, "arguments": json.dumps({"city": text})}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    if (body.get("response_format") or {}).get("type") == "json_object":
        return {"role": "assistant", "content": json.dumps({"echo": text})}
    return {"role": "assistant", "content": f"echo: {text}"}


def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "answer-1", "object": kind, "created": 1_700_000_000, "model": body["model"]}


def _whole(body: dict[str, Any], chat: bool) -> dict[str, Any]:
    usage = _usage(body, chat)
    if not chat:
        choice: dict[str, Any] = {"index": 0, "text": f"echo: {_text(body, False)}", "finish_reason": "stop"}
        return {**_head(body, "text_completion"), "choices": [choice], "usage": usage}
    message = _message(body)
    reason = "tool_calls" if "tool_calls" in message else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": usage}


def _events(body: dict[str, Any], chat: bool) -> list[bytes]:
    counted = (body.get("stream_options") or {}).get("include_usage") is True
    head = _head(body, "chat.completion.chunk" if chat else "text_completion")
    extra = {"usage": None} if counted else {}

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, **extra, "choices": choices, **more}).encode() + b"\n\n"

    events = []
    if chat and body.get("tools"):
        call = _message(body)["tool_calls"][0]
        events.append(
            event([{"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}, "finish_reason": None}])
        )
        events.append(event([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]))
    else:
        for word in f"echo: {_text(body, chat)}".split(" "):
            piece: dict[str, Any] = {"delta": {"content": word + " "}} if chat else {"text": word + " "}
            events.append(event([{"index": 0, "finish_reason": None, **piece}]))
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        events.append(event([{"index": 0, "finish_reason": "stop", **end}]))
    if counted:
        events.append(event([], usage=_usage(body, chat)))
    return [*events, b"data: [DONE]\n\n"]
