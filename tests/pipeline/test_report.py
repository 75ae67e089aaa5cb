from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline import evaluate, report
from pipeline.layout import RunLayout
from pipeline.reporting.labels import CHARACTER_WIDTH, place_labels
from pipeline.reporting.text import answer_of, summary
from tests.pipeline.evaluation_case import KindPolicy, bundle, config, outcomes, write_inputs


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_inputs(folder, outcomes(4, 9))
    data = {"train": outcomes(300, 0), "validation": outcomes(80, 1), "test": outcomes(120, 2)}
    data["ood"] = outcomes(60, 3, ("new <code>", "new prose"))
    return evaluate.measure(bundle(KindPolicy(), data["train"]), data, data, config(folder))


@pytest.fixture(scope="module")
def drawn(metrics):
    return report.draw(metrics)


@pytest.fixture(scope="module")
def page(metrics, drawn):
    return report.html(metrics, drawn)


def test_page_loads_nothing_from_elsewhere(page):
    loaded: list[tuple[str, str]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            loaded.extend((tag, name) for name, _ in attrs if name in ("src", "href", "data", "srcset"))

    Tags().feed(page)
    assert loaded == []
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_chart_has_its_place_on_the_page(page, metrics):
    found = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    specs = json.loads(found.group(1))
    assert set(specs) == {"plane-test", "plane-ood", "gain", "dial", "tasks"}
    for name in specs:
        assert page.count(f'id="{name}"') == 1


def test_charts_fetch_no_data(drawn):
    assert '"url"' not in json.dumps(drawn)


def test_task_names_are_escaped(page):
    assert "new <code>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "new &lt;code&gt;" in page


def test_page_is_the_same_when_drawn_again_from_the_file(metrics, page):
    again = json.loads(json.dumps(metrics, sort_keys=True))
    assert report.html(again, report.draw(again)) == page


def test_simulated_outcomes_are_announced(metrics, page):
    assert "simulated" not in re.sub(r"<script.*?</script>", "", page, flags=re.S).replace(
        "simulated_online", ""
    )
    example = {**metrics, "data": {**metrics["data"], "simulated_outcomes": True}}
    assert "outcomes are simulated" in report.html(example, {})


def test_picture_is_a_png(metrics, tmp_path):
    layout = RunLayout(tmp_path)
    report.write(layout, metrics)
    assert layout.picture.read_bytes().startswith(b"\x89PNG")
    assert layout.report.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.png"]


def test_action_shares_belong_to_the_right_models(metrics, drawn):
    rows = next(r for r in drawn["dial"]["datasets"].values() if "share" in r[0])
    shown = {(r["model"], r["w"]): r["share"] for r in rows}
    shares = metrics["splits"]["test"]["routers"]["policy"]["action_shares"]
    for column, model in enumerate(metrics["models"]):
        assert shown[(model, 0.0)] == pytest.approx(shares[0][column])


def test_summary_answers_by_the_interval(metrics):
    split = metrics["splits"]["test"]
    policy = split["routers"]["policy"]

    def with_interval(interval):
        changed = {**policy, "intervals": {"gain_over_best_single": interval}}
        return answer_of({**split, "routers": {**split["routers"], "policy": changed}})

    answers = [with_interval(i) for i in ([0.01, 0.02], [-0.02, -0.01], [-0.01, 0.01], None)]
    assert answers == ["yes", "no", "not shown", "unknown"]


def test_summary_states_the_measured_figures(metrics):
    text = " ".join(summary(metrics).paragraphs)
    assert f"{metrics['splits']['test']['routers']['policy']['mean_reward']:.4f}" in text
    assert f"{metrics['splits']['ood']['routers']['best_single']['mean_reward']:.4f}" in text


def test_console_table_has_both_splits_and_every_kind_of_router(metrics):
    text = report.console_table(metrics)
    for part in ("held-out prompts", "held-out tasks", "kind", "best single", "random", "oracle", "always"):
        assert part in text


def test_free_and_useless_models_still_make_a_report(tmp_path):
    write_inputs(tmp_path, outcomes(4, 9))
    data = {"train": outcomes(100, 0), "test": outcomes(30, 1)}
    for name, matrix in data.items():
        costs = matrix.costs_usd.copy()
        costs[:, 2] = 0.0
        data[name] = replace(matrix, costs_usd=costs, scores=np.zeros_like(matrix.scores))
    settings = config(tmp_path, "evaluate.bootstrap_samples=0")
    metrics = evaluate.measure(bundle(KindPolicy(), data["train"]), data, data, settings)
    json.dumps(metrics, allow_nan=False)
    assert "Unknown" in report.html(metrics, report.draw(metrics))


def test_labels_overlap_neither_each_other_nor_the_frame():
    rng = np.random.default_rng(0)
    points = rng.uniform([100, 50], [500, 350], size=(9, 2))
    texts = [f"model-{i}" for i in range(9)]
    places = place_labels(points, texts, np.empty((0, 2)), width=640, height=400, font_size=11)
    boxes = []
    for point, text, place in zip(points, texts, places):
        length = len(text) * CHARACTER_WIDTH * 11
        left = point[0] + place.dx - {"left": 0, "center": 0.5, "right": 1}[place.align] * length
        boxes.append((left, point[1] + place.dy - 5.5, left + length, point[1] + place.dy + 5.5))
    for i, a in enumerate(boxes):
        assert (min(a[0], a[1]) >= 0, a[2] <= 640, a[3] <= 400) == (True, True, True)
        for b in boxes[i + 1 :]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
