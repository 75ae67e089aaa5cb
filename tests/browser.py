"""A headless Chromium for tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(
    EXECUTABLE is None,
    reason="no chromium, chromium-browser or google-chrome on PATH to look at the page with",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's browser.

    While it runs, Playwright's event loop counts as the running one of this thread: let no fixture outlive a
    module, or other tests cannot start theirs.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=EXECUTABLE,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
            ],
        )
        yield browser
        browser.close()


def complaints(page: Page) -> list[str]:
    """Return a list that fills with what the page's console and scripts complain about from now on."""
    found: list[str] = []
    page.on(
        "console",
        lambda message: found.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: found.append(str(error)))
    return found
