"""The console in a real browser: it draws, obeys the keyboard, fits a phone and takes names for text."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from serve.access.keys import new_key
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.browser import chromium, complaints, needs_browser
from tests.serve.local_server import serving
from tests.serve.scored import HOSTILE, save_scored_bundle

pytestmark = needs_browser
# Time for a busy machine: nothing here measures speed.
expect.set_options(timeout=20_000)

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
INJECTED = "<script>document.title='owned'</script><b>bold</b>"


@pytest.fixture(scope="module")
def url(tmp_path_factory, encoder):
    directory = tmp_path_factory.mktemp("scored") / "policy"
    save_scored_bundle(directory, encoder.identity)
    with serving(Runtime.open(ServeSettings(bundle=str(directory)))) as url:
        yield url


@pytest.fixture(scope="module")
def unscored_url(bundle_dir):
    with serving(Runtime.open(ServeSettings(bundle=str(bundle_dir)))) as url:
        yield url


@pytest.fixture(scope="module")
def locked(bundle_dir):
    """URL of an endpoint with keys, and a key."""
    key, entry = new_key("console")
    settings = ServeSettings.parse({"bundle": str(bundle_dir), "access": {"keys": [entry.model_dump()]}})
    with serving(Runtime.open(settings)) as url:
        yield url, key


@pytest.fixture(scope="module")
def browser(url, unscored_url, locked):
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    contexts = []

    def open_page(url: str, **options: Any) -> tuple[Page, list[str]]:
        contexts.append(browser.new_context(**{**DESKTOP, **options}))
        page = contexts[-1].new_page()
        found = complaints(page)
        page.goto(url)
        expect(page.locator("#plane svg")).to_be_visible()
        expect(page.locator("#state")).to_have_text("Live")
        return page, found

    yield open_page
    for context in contexts:
        context.close()


def decide(page: Page, prompt: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("#strip svg")).to_be_visible()


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_without_a_complaint_and_fits(visit, url, device, scheme):
    page, found = visit(url, **device, color_scheme=scheme)
    decide(page, "Write a haiku.")
    expect(page.locator("#timeline svg")).to_be_visible()
    for chart in ("plane", "shares", "strip", "timeline"):
        assert page.locator(f"#{chart} svg").get_attribute("aria-label")
    assert page.locator("#plane path.glyph").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"]
    assert not re.search(r"NaN|undefined|Infinity", page.content())
    assert found == []


def test_the_dial_obeys_the_keyboard(visit, url):
    page, _ = visit(url)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dial = page.get_by_role("slider")
    expect(dial).to_be_focused()
    value = page.locator("#dial-value")
    seen = {}
    for key, expected in (("Home", "0.00"), ("ArrowRight", "0.025"), ("PageUp", "0.125"), ("End", "1.00")):
        page.keyboard.press(key)
        expect(value).to_have_text(expected)
        seen[key] = page.locator("#at-dial").inner_text(), dial.get_attribute("aria-valuetext")
    assert seen["Home"][0] != seen["End"][0]
    assert "w_cost 1.00" in seen["End"][1]
    assert "per 1,000 requests" in seen["End"][1]


def test_everything_that_can_be_used_has_a_name_and_can_be_reached(visit, url):
    page, _ = visit(url)
    decide(page, "Write a haiku.")
    nameless = page.evaluate(
        "[...document.querySelectorAll('input,textarea,select,button,a,summary,[role=region]')].filter(e =>"
        " !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    reached = set()
    page.locator("body").click(position={"x": 2, "y": 2})
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"dial", "prompt", "max-cost", "max-latency", "Decide", "window"} <= reached


def test_a_prompt_is_decided_across_the_dial(visit, url):
    page, _ = visit(url)
    prompt = page.get_by_role("textbox", name="Prompt")
    prompt.fill("What is 17% of 2,340?")
    prompt.press("Control+Enter")
    expect(page.locator("#verdict")).to_contain_text("At 0.30")
    chosen = page.locator("#explanation-table tr.chosen td.name")
    first = chosen.inner_text()
    strip = page.locator("#strip svg")
    strip.click(position={"x": strip.bounding_box()["width"] - 10, "y": 30})
    expect(page.locator("#dial-value")).to_have_text("1.00")
    expect(page.locator("#verdict")).to_contain_text("At 1.00")
    assert chosen.inner_text() != first
    decide(page, "word " * 400)
    expect(page.locator("#explanation-table tr.out td.why").last).to_contain_text("context window")


def test_a_refused_question_is_told(visit, url):
    page, _ = visit(url)
    page.get_by_role("textbox", name="Prompt").fill("   ")
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("#ask-state")).to_contain_text("Not decided: prompt: must not be empty")
    expect(page.locator("#explanation")).to_be_hidden()


def test_names_and_prompts_stay_text(visit, url):
    page, found = visit(url)
    decide(page, INJECTED)
    expect(page.locator("#explanation-table")).to_contain_text(HOSTILE)
    page.get_by_text("Every model as a table").click()
    expect(page.locator("#picture-table")).to_contain_text(HOSTILE)
    assert page.title() == "Tradewind console"
    assert page.locator("main img, main script, main b").count() == 0
    assert found == []


def test_traffic_arrives_by_itself(visit, url):
    page, found = visit(url)
    decisions = page.locator("#traffic-figures dd").first
    expect(decisions).to_be_visible()
    before = int(decisions.evaluate("e => e.firstChild.textContent.replace(/,/g, '')"))
    answers = page.evaluate(
        "Promise.all([...Array(3)].map(() => fetch('v1/route', {method: 'POST', body: JSON.stringify("
        "{prompt: 'Write a haiku.', w_cost: 0.3})}).then(a => a.status)))"
    )
    assert answers == [200, 200, 200]
    page.wait_for_function(
        "n => +document.querySelector('#traffic-figures dd').firstChild.textContent.replace(/,/g, '') === n",
        arg=before + 3,
    )
    expect(page.locator("#traffic-releases")).to_contain_text("champion")
    assert found == []


def test_a_lost_endpoint_is_told_and_found_again(visit, url):
    page, _ = visit(url)
    page.route("**/v1/*", lambda route: route.abort())
    expect(page.locator("#state")).to_contain_text("Not reached", timeout=15_000)
    page.unroute("**/v1/*")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("#state")).to_have_text("Live")


def test_a_policy_without_scores_is_drawn_by_cost_and_shares(visit, unscored_url):
    page, found = visit(unscored_url)
    expect(page.locator("#picture-source")).to_contain_text("predicts no scores")
    decide(page, "Write a haiku.")
    expect(page.locator("#probabilities svg")).to_be_visible()
    expect(page.locator("#at-dial")).not_to_contain_text("score")
    assert found == []


def test_with_keys_the_browser_asks_once_and_the_page_works(visit, locked):
    url, key = locked
    page, found = visit(url, http_credentials={"username": "anyone", "password": key})
    decide(page, "Write a haiku.")
    expect(page.locator("#traffic-figures")).to_contain_text("Decisions")
    assert found == []


@pytest.mark.parametrize("path", ["/", "/console/console.js", "/v1/dial", "/v1/traffic"])
def test_without_a_key_there_is_no_page(locked, path):
    answer = httpx.get(locked[0] + path)
    assert answer.status_code == 401
    # What a browser goes to first makes it ask for the key.
    assert answer.headers["www-authenticate"].startswith("Bearer" if path.startswith("/v1") else "Basic")
