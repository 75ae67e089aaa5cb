"""The report: one HTML page that needs nothing else, and the cost-quality picture as PNG.

Everything is drawn from ``metrics.json``; the same figures give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import vl_convert

from pipeline.config import TradewindConfig
from pipeline.layout import RunLayout
from pipeline.reporting import charts, evidence, log_page
from pipeline.reporting.identity_section import identity_charts, identity_section
from pipeline.reporting.page import chart, document, replace_file, section, table
from pipeline.reporting.plane import plane
from pipeline.reporting.style import SPLIT_TITLES, reported_splits, styled
from pipeline.reporting.text import chart_notes, data_rows, summary
from pipeline.reporting.verdict_section import verdict_section
from pipeline.routers import BEST_SINGLE, POLICY
from policies.errors import InputError

PICTURE_SCALE = 1.6
"""Pixels per CSS pixel of the PNG: sharp on high-resolution screens."""

_ROLE_ORDER = {"policy": 0, "baseline": 1, "reference": 2, "single": 3, "bound": 4}


def run(config: TradewindConfig) -> None:
    """Draw the report again from the run's ``metrics.json``.

    Raises:
        InputError: there is no ``metrics.json``, or one of an older format.
    """
    layout = RunLayout.of(config)
    path = layout.need(layout.metrics, "evaluate")
    metrics = json.loads(path.read_text())
    if "splits" not in metrics and "log_evaluation" in metrics:
        log_page.write(layout.report, metrics["log_evaluation"])
        return
    for key in ("splits", "calibration", "losses", "health"):
        if key not in metrics:
            raise InputError(f"{path}: key '{key}' is missing; run `python -m pipeline evaluate` again")
    write(layout, metrics)


def write(layout: RunLayout, metrics: Mapping[str, Any]) -> None:
    """Write the HTML page and the PNG into the run's folder, each as a whole."""
    drawn = draw(metrics)
    replace_file(layout.report, html(metrics, drawn).encode())
    picture = vl_convert.vegalite_to_png(
        json.dumps(drawn[f"plane-{_main_split(metrics)}"]), scale=PICTURE_SCALE
    )
    replace_file(layout.picture, picture)


def draw(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of every chart by its name on the page."""
    made = {}
    for name, _ in reported_splits(metrics):
        made[f"plane-{name}"] = plane(metrics, name)
    made["gain"] = charts.gain_over_dial(metrics)
    made["dial"] = charts.dial(metrics, _main_split(metrics))
    made["tasks"] = charts.task_chart(metrics)
    made |= identity_charts(metrics.get("training"))
    predicted = evidence.calibration_chart(metrics)
    if predicted is not None:
        made[evidence.CALIBRATION] = predicted
    return {name: styled(one).to_dict() for name, one in made.items()}


def html(metrics: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """Return the page; scripts, styles and data are inside, and its policy forbids loading anything."""
    parts = [_header(metrics)]
    for name, split in reported_splits(metrics):
        title = "Cost and quality" if name == "test" else "On tasks it has never seen"
        parts.append(section(title, chart_notes(name, split), chart(f"plane-{name}")))
    parts += [
        section("Where on the dial it pays", chart_notes("gain", metrics), chart("gain")),
        section("The dial", chart_notes("dial", metrics), chart("dial")),
        section("Task by task", chart_notes("tasks", metrics), chart("tasks") + _task_table(metrics)),
    ]
    tables = "".join(_router_table(name, split) for name, split in reported_splits(metrics))
    parts.append(section("All routers", chart_notes("routers", metrics), tables))
    if metrics.get("verdict") is not None:
        parts.append(verdict_section(metrics))
    parts += [
        evidence.losses_section(metrics),
        evidence.calibration_section(metrics),
        evidence.health_section(metrics),
        *identity_section(metrics.get("training"), drawn),
    ]
    parts.append(section("Data and method", chart_notes("data", metrics), _data_table(metrics)))
    return document("Tradewind: is routing worth it?", parts, drawn)


def console_table(metrics: Mapping[str, Any]) -> str:
    """Return the comparison as plain text, one block a split."""
    lines = []
    for name, split in reported_splits(metrics):
        lines.append(f"\n{SPLIT_TITLES[name]} ({split['n_prompts']:,} prompts)")
        header = (
            "router",
            "mean reward",
            "vs best single",
            "gap closed",
            "AIQ / mix",
            "PerfGain",
            "CostSave",
        )
        rows = [header]
        for router in _ranked(split):
            if router["role"] == "single":
                continue
            rows.append((router["label"], *_figures(router, split)))
        best = max((r for r in _ranked(split) if r["role"] == "single"), key=lambda r: r["mean_reward"])
        rows.append((best["label"], *_figures(best, split)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
            lines.append("  " + "  ".join(cells))
    return "\n".join(lines).lstrip("\n")


def _main_split(metrics: Mapping[str, Any]) -> str:
    return reported_splits(metrics)[0][0]


def _ranked(split: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return routers by role, the better first."""
    rows = split["routers"].values()
    return sorted(rows, key=lambda r: (_ROLE_ORDER[r["role"]], -r["mean_reward"], r["label"]))


def _figures(router: Mapping[str, Any], split: Mapping[str, Any]) -> tuple[str, ...]:
    fixed = split["routers"][BEST_SINGLE]["mean_reward"]
    return (
        f"{router['mean_reward']:.4f}",
        f"{router['mean_reward'] - fixed:+.4f}",
        _number(router["gap_closed"], "+.1%"),
        _number(router["aiq"] / split["mix_line"]["aiq"] if split["mix_line"]["aiq"] else None, ".3f"),
        _number(router.get("perf_gain"), "+.1%"),
        _number(router.get("cost_save"), "+.1%"),
    )


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _interval(bounds: list[float] | None, form: str = "+.4f") -> str:
    return "" if bounds is None else f" [{bounds[0]:{form}}, {bounds[1]:{form}}]"


def _header(metrics: Mapping[str, Any]) -> str:
    text = summary(metrics)
    policy, data = metrics["policy"], metrics["data"]
    tiles = "".join(
        f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in text.tiles
    )
    notice = ""
    if data["simulated_outcomes"]:
        notice = (
            '<div class="notice"><b>Simulated data.</b> This run uses the embedded example: its prompts are '
            "generated and its outcomes are simulated. The figures show that the pipeline works, not what "
            "routing would save you.</div>"
        )
    return (
        f"<h1>Is routing worth it? {escape(text.verdict)}</h1>\n"
        f'<div class="meta">policy {escape(policy["kind"])} <code>{escape(policy["version"])}</code>, trained in '
        f"mode {escape(policy['train_mode'])}; pool '{escape(data['pool'])}' of {len(metrics['models'])} models; "
        f"encoder {escape(policy['encoder'])}</div>\n{notice}\n<section>"
        + "".join(f"<p>{escape(p)}</p>" for p in text.paragraphs)
        + f'<div class="tiles">{tiles}</div></section>'
    )


def _router_table(name: str, split: Mapping[str, Any]) -> str:
    header = (
        "router", "mean reward", "95 % interval", "vs best single", "gap closed", "AIQ / mix line", "PerfGain",
        "CostSave", "max cost rise",
    )  # fmt: skip
    rows = []
    for router in _ranked(split):
        figures = _figures(router, split)
        interval = _interval(router.get("intervals", {}).get("mean_reward"), ".4f").strip()
        rise = _number(router.get("max_cost_rise"), ".2%")
        rows.append((router["role"], (router["label"], figures[0], interval, *figures[1:], rise)))
    title = SPLIT_TITLES[name]
    return table(header, rows, f"{title[0].upper()}{title[1:]}, {split['n_prompts']:,}")


def _task_table(metrics: Mapping[str, Any]) -> str:
    header = ("task", "prompts", "this policy", "best single", "oracle", "gain", "95 % interval")
    rows = []
    for name, split in reported_splits(metrics):
        for task, body in sorted(split["tasks"].items(), key=lambda item: -item[1]["gain_over_best_single"]):
            reward = body["mean_reward"]
            rows.append(
                (
                    "",
                    (
                        task if name == "test" else f"{task} (held out)",
                        f"{body['n_prompts']:,}",
                        f"{reward[POLICY]:.4f}",
                        f"{reward[BEST_SINGLE]:.4f}",
                        f"{reward['oracle']:.4f}",
                        f"{body['gain_over_best_single']:+.4f}",
                        _interval(body["gain_interval"]).strip() or "too few prompts",
                    ),
                )
            )
    return table(header, rows)


def _data_table(metrics: Mapping[str, Any]) -> str:
    rows = [("", row) for row in data_rows(metrics)]
    return table(("split", "prompts", "scored", "dropped: a model's outcome is missing"), rows)
