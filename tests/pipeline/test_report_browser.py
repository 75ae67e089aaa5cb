"""The report in a real browser: charts are drawn, nothing fails, the page is not blank."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipeline import evaluate, report
from pipeline.baselines import fit_baseline
from pipeline.layout import RunLayout
from tests.browser import chromium, complaints, needs_browser
from tests.pipeline.evaluation_case import bundle, config, outcomes, write_inputs

WIDTH, HEIGHT = 1280, 800

pytestmark = needs_browser


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_inputs(folder, outcomes(4, 9))
    data = {"train": outcomes(300, 0), "validation": outcomes(80, 1), "test": outcomes(120, 2)}
    data["ood"] = outcomes(60, 3, ("new code", "new prose"))
    policy = fit_baseline("ridge", data["train"], data["train"].tau_usd())
    texts = {str(p): f"prompt {p}" for name in ("test", "ood") for p in data[name].prompt_ids}
    settings = config(folder, "evaluate.baselines=[knn]")
    return evaluate.measure(bundle(policy, data["train"]), data, data, settings, texts=texts)


@pytest.fixture(scope="module")
def page(metrics, tmp_path_factory):
    layout = RunLayout(tmp_path_factory.mktemp("page"))
    report.write(layout, metrics)
    return layout.report


class Charts(HTMLParser):
    """Counts the marks inside each chart's place."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: dict[str, int] = {}
        self._stack: list[str] = []
        self._chart: str | None = None

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "chart" in (found.get("class") or "").split() and found.get("id"):
            self._chart = found["id"]
            self.marks[self._chart] = 0
        if tag == "section":
            self._chart = None
        if self._chart and tag in ("path", "text", "canvas"):
            self.marks[self._chart] += 1


@pytest.fixture(scope="module")
def opened(page, metrics):
    """The report in a browser once all its charts are drawn, and what the browser complained about."""
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        found = complaints(tab)
        tab.goto(page.as_uri())
        tab.wait_for_function(
            "n => document.querySelectorAll('.chart svg').length === n",
            arg=len(report.draw(metrics)),
            timeout=60_000,
        )
        yield tab, found


def test_every_chart_is_drawn_and_none_fails(opened, metrics):
    tab, found = opened
    body = re.sub(r"<script.*?</script>", "", tab.content(), flags=re.DOTALL)
    seen = Charts()
    seen.feed(body)
    assert set(seen.marks) == set(report.draw(metrics)) >= {"plane-test", "dial", "tasks", "calibration"}
    assert {name: n for name, n in seen.marks.items() if n < 20} == {}
    assert body.count("<svg") == len(seen.marks)
    for sign in ("Javascript Error", "vega-error", "NaN,", ">undefined<"):
        assert sign not in body
    # Vega warns of settings that overrule each other; what fails is an error.
    assert [words for words in found if not words.startswith("WARN ")] == []


def test_screenshot_is_not_blank(opened):
    tab, _ = opened
    shot = tab.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": 5 * HEIGHT})
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).reshape(5, -1, 3)
    assert pixels.shape[1] == WIDTH * HEIGHT
    for screen in pixels:
        assert len(np.unique(screen[::7], axis=0)) > 20, (
            "each screen of the page shows more than a background"
        )


def test_page_fits_a_laptop(opened):
    """No element is wider than its box: a section that scrolls sideways hides a column from the reader."""
    tab, _ = opened
    wide = tab.evaluate(
        "[...document.querySelectorAll('section')].filter(s => s.scrollWidth > s.clientWidth + 1)"
        ".map(s => s.querySelector('h2').textContent)"
    )
    assert wide == []
