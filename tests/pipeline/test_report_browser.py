"""The report in a real browser: charts are drawn, nothing fails, the page is not blank."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import evaluate, report
from pipeline.baselines import fit_baseline
from pipeline.layout import RunLayout
from tests.pipeline.evaluation_case import bundle, config, outcomes, write_inputs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH, HEIGHT = 1280, 800

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH to look at the page with"
)


def browse(profile: Path, page: Path, *flags: str) -> bytes:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}", "--no-first-run",
        "--virtual-time-budget=10000", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout


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


def test_every_chart_is_drawn_and_none_fails(page, metrics, tmp_path):
    dom = browse(tmp_path / "profile", page, "--dump-dom").decode()
    body = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    seen = Charts()
    seen.feed(body)
    assert set(seen.marks) == set(report.draw(metrics)) >= {"plane-test", "dial", "tasks", "calibration"}
    assert {name: n for name, n in seen.marks.items() if n < 20} == {}
    assert body.count("<svg") == len(seen.marks)
    for sign in ("Javascript Error", "vega-error", "NaN,", ">undefined<"):
        assert sign not in body


def test_screenshot_is_not_blank(page, tmp_path):
    shot = tmp_path / "page.png"
    browse(tmp_path / "profile", page, f"--screenshot={shot}", f"--window-size={WIDTH},{5 * HEIGHT}")
    pixels = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")).reshape(5, -1, 3)
    assert pixels.shape[1] == WIDTH * HEIGHT
    for screen in pixels:
        assert len(np.unique(screen[::7], axis=0)) > 20, (
            "each screen of the page shows more than a background"
        )


def test_page_fits_a_laptop(page, tmp_path):
    """No element is wider than its box: a section that scrolls sideways hides a column from the reader."""
    probe = tmp_path / "probe.html"
    script = (
        "<script>addEventListener('load', () => setTimeout(() => { const wide = [...document.querySelectorAll("
        "'section')].filter(s => s.scrollWidth > s.clientWidth + 1).map(s => s.querySelector('h2').textContent);"
        "document.title = 'wide:' + JSON.stringify(wide); }, 3000));</script></body>"
    )
    probe.write_text(page.read_text().replace("</body>", script))
    dom = browse(tmp_path / "profile", probe, "--dump-dom", f"--window-size={WIDTH},{HEIGHT}").decode()
    found = re.search(r"<title>wide:(.*?)</title>", dom)
    assert found is not None
    assert found.group(1) == "[]"
