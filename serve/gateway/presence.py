"""Work that ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive


class ClientLeftError(Exception):
    """The client closed the connection before its answer was complete."""


@asynccontextmanager
async def while_client_stays(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client leaves.

    Args:
        receive: of the ASGI request, whose body has been read.

    Raises:
        ClientLeftError: it left.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        # A cancellation from elsewhere (the server shuts down) is not ours to swallow.
        if not left or task.uncancel() > 0:
            raise
        raise ClientLeftError from None
    finally:
        watcher.cancel()
