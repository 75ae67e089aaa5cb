"""Mixed traffic on an endpoint, and the books that a caller keeps of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

MIX = (("route", 0.4), ("chat", 0.4), ("stream", 0.2))
PROMPTS = 200
"""Different prompts: most are remembered, as in traffic that repeats itself, and some are not."""
KILL_WINDOW_S = 30.0
RESENDS = 5


@dataclass
class Books:
    """What callers were told."""

    decisions: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    cut_streams: int = 0
    resent: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Traffic:
    """Sends requests and keeps the books.

    Args:
        session: HTTP client.
        base: URL of the endpoint.
    """

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self._rng = random.Random(1)
        self._numbers = itertools.count()
        self.books = Books()
        self.killed_at: float | None = None

    async def one(self) -> None:
        """Send one request of the mix; send it again if it was lost with the killed replica."""
        number = next(self._numbers)
        kind = self._rng.choices([k for k, _ in MIX], [p for _, p in MIX])[0]
        started = time.perf_counter()
        for attempt in range(RESENDS):
            try:
                await getattr(self, f"_{kind}")(number)
            except (aiohttp.ClientError, TimeoutError, _LostError) as error:
                if not self._near_kill() or attempt + 1 == RESENDS:
                    self.books.errors[f"{kind}: {type(error).__name__}: {str(error)[:80]}"] += 1
                    return
                self.books.resent += 1
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                self.books.answered[kind] += 1
                self.books.latencies_ms.append((time.perf_counter() - started) * 1e3)
                return

    def _near_kill(self) -> bool:
        return self.killed_at is not None and time.monotonic() - self.killed_at < KILL_WINDOW_S

    def _prompt(self, number: int) -> str:
        # A few prompts in a hundred have never been seen.
        return f"Question {number if number % 50 == 0 else number % PROMPTS}: how far is the Moon?"

    async def _route(self, number: int) -> None:
        body = {
            "prompt": self._prompt(number),
            "w_cost": self._rng.random(),
            "metadata": {"request": str(number)},
        }
        answer = await self._post("/v1/route", body)
        self.books.decisions[answer["decision_id"]] = str(number)
        if number % 2:
            score = round(self._rng.random(), 6)
            await self._post("/v1/feedback", {"decision_id": answer["decision_id"], "score": score})
            self.books.scores[answer["decision_id"]] = score

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(self._base + path, json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise _LostError(f"{path} {response.status} {_code(text)}")
            return json.loads(text)

    def _chat_body(self, number: int, **more: Any) -> tuple[dict[str, Any], str]:
        asked = f"{self._prompt(number)} #{number}"
        content = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
        w_cost = round(self._rng.random(), 2)
        return {"model": f"tradewind:{w_cost}", "messages": content, **more}, f"echo: {asked}"

    async def _chat(self, number: int) -> None:
        body, expected = self._chat_body(number, metadata={"request": str(number)})
        async with self._session.post(self._base + "/v1/chat/completions", json=body) as response:
            text = await response.text()
            if response.status != 200:
                raise _LostError(f"chat {response.status} {_code(text)}")
            self.books.decisions[response.headers["x-tradewind-decision-id"]] = str(number)
            if json.loads(text)["choices"][0]["message"]["content"] != expected:
                self.books.wrong += 1

    async def _stream(self, number: int) -> None:
        body, expected = self._chat_body(number, stream=True, metadata={"request": str(number)})
        found, told = "", False
        async with self._session.post(self._base + "/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise _LostError(f"stream {response.status} {_code(await response.text())}")
            self.books.decisions[response.headers["x-tradewind-decision-id"]] = str(number)
            done = False
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    done = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    told = True
                else:
                    for choice in event["choices"]:
                        found += choice["delta"].get("content", "")
        if told:
            self.books.cut_streams += 1
            self.books.wrong += not expected.startswith(found)
        elif not done:
            raise _LostError("a stream ended without a word")
        elif found != expected:
            self.books.wrong += 1


class _LostError(Exception):
    """A request that got no proper answer."""


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return text[:60]


async def closed_loop(traffic: Traffic, seconds: float, clients: int) -> float:
    """Return the rate that so many clients reach without pause."""
    end = time.monotonic() + seconds

    async def loop() -> int:
        count = 0
        while time.monotonic() < end:
            await traffic.one()
            count += 1
        return count

    started = time.monotonic()
    counts = await asyncio.gather(*(loop() for _ in range(clients)))
    return sum(counts) / (time.monotonic() - started)


async def open_loop(traffic: Traffic, rate: float, seconds: float) -> None:
    """Send requests at a fixed mean rate, whether or not earlier ones have been answered."""
    rng = random.Random(2)
    tasks: set[asyncio.Task[None]] = set()
    started = time.monotonic()
    due = 0.0
    while due < seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(started + due - time.monotonic(), 0.0))
        task = asyncio.create_task(traffic.one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks)
