"""Providers of which some fail now and then: what a gateway must shield its callers from.

Models whose name starts with ``flaky`` answer a share of calls with a fault: a 500, silence, a slow first byte,
bytes that are not JSON, or a stream that breaks off in the middle. All other models always answer. An answer
repeats the last user turn, so that a caller can tell its own from another's.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

from aiohttp import web

FAULTS = ("status_500", "silence", "slow_first_byte", "bad_json", "cut")
SLOW_S = 1.0


class FaultyUpstream:
    """An OpenAI-compatible server on loopback.

    Args:
        fault_share: share of the calls to flaky models that go wrong.
        seed: of the faults.

    Attributes:
        faults: how often each fault was played.
        url: base URL, once started.
    """

    def __init__(self, fault_share: float, seed: int = 0) -> None:
        self._share = fault_share
        self._rng = random.Random(seed)
        self._runner: web.AppRunner | None = None
        self.faults: Counter[str] = Counter()
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = None
        if body["model"].startswith("flaky") and self._rng.random() < self._share:
            fault = self._rng.choice(FAULTS)
            self.faults[fault] += 1
        if fault == "status_500":
            return web.json_response({"error": {"message": "trouble", "code": "trouble"}}, status=500)
        if fault == "silence":
            await asyncio.sleep(3600)
        if fault == "slow_first_byte":
            await asyncio.sleep(SLOW_S)
        if fault == "bad_json":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        text = f"echo: {body['messages'][-1]['content']}"
        words = len(text.split())
        usage = {"prompt_tokens": words, "completion_tokens": words, "total_tokens": 2 * words}
        if body.get("stream"):
            return await self._stream(request, body["model"], text, usage, cut=fault == "cut")
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {**_head(body["model"], "chat.completion"), "choices": [choice], "usage": usage}
        )

    async def _stream(
        self, request: web.Request, model: str, text: str, usage: dict[str, int], *, cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        head = _head(model, "chat.completion.chunk")
        words = text.split(" ")
        for number, word in enumerate(words):
            if cut and number == len(words) // 2:
                await asyncio.sleep(0.02)
                assert request.transport is not None
                request.transport.abort()
                return response
            piece = word if number == len(words) - 1 else word + " "
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            await response.write(_event({**head, "choices": [choice]}))
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await response.write(_event({**head, "choices": [last]}))
        await response.write(_event({**head, "choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "answer", "object": kind, "created": 1_700_000_000, "model": model}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"
