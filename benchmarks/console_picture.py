"""Draw the console of a trained policy as the documentation shows it.

``python -m benchmarks.console_picture runs/example docs/images/console.png`` serves the run's policy on this machine,
routes prompts, tells their outcomes, opens the page in the system's Chromium and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from pathlib import Path

import httpx
import uvicorn
from playwright.sync_api import sync_playwright

from serve.api.application import create_app
from serve.console.samples import SAMPLES
from serve.runtime import Runtime
from serve.settings import ServeSettings

WIDTH, HEIGHT = 1180, 2000
SETTINGS = (0.0, 0.1, 0.3, 0.3, 0.3, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--requests", type=int, default=200)
    asked = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    settings = ServeSettings(bundle=str(asked.run / "policy"))
    server = uvicorn.Server(uvicorn.Config(create_app(Runtime.open(settings)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    version = send_traffic(url, asked.requests)
    take_picture(url, asked.picture, asked.chromium)
    server.should_exit = True
    thread.join(30)
    print(json.dumps({"picture": str(asked.picture), "requests": asked.requests, "policy_version": version}))


def send_traffic(url: str, requests: int) -> str:
    """Route prompts and tell the outcome of every third; return the policy's version."""
    draw = random.Random(0)
    version = ""
    with httpx.Client(base_url=url, timeout=60) as client:
        for i in range(requests):
            question = {"prompt": draw.choice(SAMPLES), "w_cost": draw.choice(SETTINGS)}
            answer = client.post("/v1/route", json=question).raise_for_status().json()
            version = answer["policy_version"]
            if i % 3 == 0:
                # The picture needs some outcome: a coin with the chance that the policy expects.
                chance = answer["expected_score"] if answer["expected_score"] is not None else 0.5
                outcome = {"decision_id": answer["decision_id"], "score": float(draw.random() < chance)}
                client.post("/v1/feedback", json=outcome).raise_for_status()
    return version


def take_picture(url: str, picture: Path, chromium: str) -> None:
    """Photograph the whole page with one prompt explained."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(url)
        page.locator("#plane svg").wait_for()
        page.locator("#timeline svg").wait_for()
        page.get_by_role("textbox", name="Prompt").fill(SAMPLES[3])
        page.get_by_role("button", name="Decide").click()
        page.locator("#strip svg").wait_for()
        page.locator("#ask-state").click()
        # As tall as the page: the bar that sticks to the top of a shorter window would cover what is below.
        height = int(page.evaluate("document.documentElement.scrollHeight"))
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    main()
