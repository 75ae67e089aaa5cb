"""Figures of a replica, and a dashboard that shows nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from serve.metrics import INSTRUMENTS, Metrics
from tests.serve.journal.cases import a_decision

DASHBOARD = Path(__file__).parents[2] / "conf" / "serve" / "grafana" / "tradewind.json"
RECORD = a_decision("d", propensity=0.5, expected_cost_usd=0.1, best_cost_usd=0.4)


def counter(metrics: Metrics, name: str) -> dict:
    return metrics.totals().counters.get(f"tradewind_{name}", {})


def test_decisions_are_counted_by_model_version_and_release():
    metrics = Metrics()
    for record in (RECORD, RECORD, replace(RECORD, release="canary", policy_version="v2", retry_of="x")):
        metrics.decided(record)
    assert counter(metrics, "decisions") == {
        ("a", "v1", "champion", "no"): 2,
        ("a", "v2", "canary", "yes"): 1,
    }
    assert counter(metrics, "expected_cost_usd")[("a",)] == pytest.approx(0.3)
    assert counter(metrics, "best_cost_usd")[()] == pytest.approx(1.2)


def test_rare_decisions_are_counted_against_the_floor():
    metrics = Metrics(propensity_floor=0.1)
    for propensity in (0.05, 0.1, 1.0):
        metrics.decided(replace(RECORD, propensity=propensity))
    assert counter(metrics, "propensity_floor_hits") == {("a",): 1}


def test_a_release_that_is_gone_shows_zero():
    metrics = Metrics()
    metrics.set_releases({"champion": "v1", "canary": "v2"})
    metrics.set_releases({"champion": "v2"})
    assert metrics.totals().gauges["tradewind_release"] == {
        ("champion", "v1"): 0.0,
        ("canary", "v2"): 0.0,
        ("champion", "v2"): 1.0,
    }


def test_flushing_twice_hands_nothing_over_twice(monkeypatch):
    metrics = Metrics()
    handed = []
    monkeypatch.setattr(
        metrics._exported["tradewind_outcomes"], "inc", lambda n, tags: handed.append((n, tags))
    )
    metrics.outcome("recorded")
    metrics.outcome("recorded")
    metrics.flush()
    metrics.flush()
    metrics.outcome("recorded")
    metrics.flush()
    assert handed == [(2, {"status": "recorded"}), (1, {"status": "recorded"})]


def test_flushing_in_the_background_hands_over_every_observation(monkeypatch):
    metrics = Metrics()
    handed = []
    target = metrics._exported["tradewind_stage_seconds"]
    monkeypatch.setattr(target, "observe", lambda value, tags: handed.append(value))

    async def observe() -> None:
        async with metrics.flushing(0.01):
            for number in range(100):
                metrics.stage("decide", number)
            await asyncio.sleep(0.1)
            metrics.stage("decide", 100)

    asyncio.run(observe())
    assert handed == list(range(101))


def test_the_dashboard_shows_what_exists_and_all_of_it():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    shown = {name for text in expressions for name in re.findall(r"ray_tradewind_\w+", text)}
    exported = {i.exported + ("_bucket" if i.kind == "histogram" else "") for i in INSTRUMENTS}
    assert shown <= exported
    # For comparisons made by hand.
    assert exported - shown <= {"ray_tradewind_shadow_cost_usd_total"}


def test_the_dashboard_groups_by_labels_that_exist():
    labels = {i.exported: {*i.labels, "replica", "application", "le"} for i in INSTRUMENTS}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            names = re.findall(r"ray_tradewind_\w+", target["expr"])
            known = set.union(*(labels[name.removesuffix("_bucket")] for name in names))
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            used |= {
                part for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for part in group.split(", ")
            }
            assert used <= known, panel["title"]
