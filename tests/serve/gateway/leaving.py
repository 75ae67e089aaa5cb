"""A client that hangs up."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from tests.serve.upstream import UpstreamServer


def ask_and_leave(url: str, upstream: UpstreamServer, **question: Any) -> None:
    """Ask for a chat completion and hang up once the upstream was asked."""

    async def leave() -> None:
        client: Any = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="client")
        async with client:
            task = asyncio.create_task(client.chat.completions.create(**question))
            while not upstream.seen:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(leave())
