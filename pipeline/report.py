"""The report: one HTML page that needs nothing else, and the cost-quality picture as PNG.

Everything is drawn from ``metrics.json``; the same figures give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import vl_convert

from pipeline.config import TradewindConfig
from pipeline.layout import RunLayout
from pipeline.reporting import charts
from pipeline.reporting.plane import plane
from pipeline.reporting.style import SPLIT_TITLES, reported_splits, styled
from pipeline.reporting.text import chart_notes, data_rows, health, summary
from pipeline.routers import BEST_SINGLE, POLICY
from policies.errors import InputError

PICTURE_SCALE = 1.6
"""Pixels per CSS pixel of the PNG: sharp on high-resolution screens."""

_ROLE_ORDER = {"policy": 0, "baseline": 1, "reference": 2, "single": 3, "bound": 4}

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --grey: #6b7280; --line: #e5e7eb; --blue: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f6f7f9;
  font: 15px/1.55 Inter, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 6px 0 10px; max-width: 96ch; }
.meta, .note { color: var(--grey); font-size: 13px; }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
.notice { background: #fff7e0; border: 1px solid #E69F00; border-radius: 10px; padding: 10px 16px; margin-top: 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 14px 0 6px; }
.tile { flex: 1 1 190px; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--grey); font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; margin-top: 8px; }
th { text-align: right; font-weight: 600; color: var(--grey); border-bottom: 1px solid #9aa2ad; padding: 4px 10px;
  vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: 4px 10px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tr.policy td { background: #e8f2f9; font-weight: 600; }
tr.single td { color: var(--grey); }
ul { padding-left: 20px; margin: 6px 0; }
code { background: #f1f3f5; border-radius: 4px; padding: 0 4px; font-size: 0.92em; }
.chart { margin-top: 10px; }
"""


def run(config: TradewindConfig) -> None:
    """Draw the report again from the run's ``metrics.json``.

    Raises:
        InputError: there is no ``metrics.json``, or one of an older format.
    """
    layout = RunLayout.of(config)
    path = layout.need(layout.metrics, "evaluate")
    metrics = json.loads(path.read_text())
    if "splits" not in metrics:
        raise InputError(f"{path}: key 'splits' is missing; run `python -m pipeline evaluate` again")
    write(layout, metrics)


def write(layout: RunLayout, metrics: Mapping[str, Any]) -> None:
    """Write the HTML page and the PNG into the run's folder, each as a whole."""
    drawn = draw(metrics)
    _replace(layout.report, html(metrics, drawn).encode())
    picture = vl_convert.vegalite_to_png(
        json.dumps(drawn[f"plane-{_main_split(metrics)}"]), scale=PICTURE_SCALE
    )
    _replace(layout.picture, picture)


def draw(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of every chart by its name on the page."""
    made = {}
    for name, _ in reported_splits(metrics):
        made[f"plane-{name}"] = plane(metrics, name)
    made["gain"] = charts.gain_over_dial(metrics)
    made["dial"] = charts.dial(metrics, _main_split(metrics))
    made["tasks"] = charts.task_chart(metrics)
    return {name: styled(chart).to_dict() for name, chart in made.items()}


def html(metrics: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """Return the page; scripts, styles and data are inside, and its policy forbids loading anything."""
    parts = [_header(metrics)]
    for name, split in reported_splits(metrics):
        title = "Cost and quality" if name == "test" else "On tasks it has never seen"
        parts.append(_section(title, chart_notes(name, split), _chart(f"plane-{name}")))
    parts += [
        _section("Where on the dial it pays", chart_notes("gain", metrics), _chart("gain")),
        _section("The dial", chart_notes("dial", metrics), _chart("dial")),
        _section("Task by task", chart_notes("tasks", metrics), _chart("tasks") + _task_table(metrics)),
    ]
    tables = "".join(_router_table(name, split) for name, split in reported_splits(metrics))
    parts.append(_section("All routers", chart_notes("routers", metrics), tables))
    checks = "".join(f"<li>{escape(line)}</li>" for line in health(metrics))
    parts.append(_section("Has it learned?", "", f"<ul>{checks}</ul>"))
    parts.append(_section("Data and method", chart_notes("data", metrics), _data_table(metrics)))
    specs = json.dumps(drawn, sort_keys=True, separators=(",", ":")).replace("</", "<\\/")
    policy = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Tradewind: is routing worth it?</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>{_vega()}</script>\n"
        + f'<script type="application/json" id="charts">{specs}</script>\n'
        + "<script>\nconst specs = JSON.parse(document.getElementById('charts').textContent);\n"
        + "for (const [name, spec] of Object.entries(specs))\n"
        + "  vegaEmbed('#' + name, spec, {actions: false, renderer: 'svg'});\n</script>\n</body>\n</html>\n"
    )


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


def _section(title: str, note: str, body: str) -> str:
    shown = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{shown}{body}</section>"


def _chart(name: str) -> str:
    return f'<div class="chart" id="{name}"></div>'


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, tuple[str, ...]]], caption: str = "") -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join(
        f'<tr class="{css}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for css, row in rows
    )
    title = f"<p><b>{escape(caption)}</b></p>" if caption else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


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
    return _table(header, rows, f"{title[0].upper()}{title[1:]}, {split['n_prompts']:,}")


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
    return _table(header, rows)


def _data_table(metrics: Mapping[str, Any]) -> str:
    rows = [("", row) for row in data_rows(metrics)]
    return _table(("split", "prompts", "scored", "dropped: a model's outcome is missing"), rows)


def _replace(path: Path, body: bytes) -> None:
    staging = path.with_name(path.name + ".tmp")
    staging.write_bytes(body)
    staging.replace(path)


def _vega() -> str:
    """Return Vega, Vega-Lite and the embedder as one script (the stub of vl-convert forgets the default)."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]
