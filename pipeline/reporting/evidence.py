"""What stands behind the headline: calibration, where the policy loses, and the checks of its learning."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import altair as alt
import polars as pl

from pipeline.reporting.page import chart, section, table
from pipeline.reporting.style import (
    BLUE,
    GREY,
    ORANGE,
    QUERIES,
    SPLIT_TITLES,
    frame,
    reported_splits,
)

Metrics = Mapping[str, Any]

CALIBRATION = "calibration"
SIDE = 250
STATES = {"ok": "✓ ok", "look": "◆ look", "alarm": "▲ alarm"}
MAX_TASKS = 12

SHOWN_SHARE = 0.005
"""Bins with fewer of the predictions are left out of the chart: what they show is chance."""

_PAIRS = {"all": "all models", "called": "called models"}


def calibration_chart(metrics: Metrics) -> Any | None:
    """Return predicted against observed scores in bins, per split; None for a policy without predictions."""
    panels = []
    for name, _ in reported_splits(metrics):
        found = metrics["calibration"][name]
        if found is None:
            return None
        panels.append(_reliability(found["scores"], SPLIT_TITLES[name][0].upper() + SPLIT_TITLES[name][1:]))
    return alt.hconcat(*panels, spacing=40)


def _reliability(scores: Metrics, title: str) -> Any:
    table_ = pl.concat(
        frame(predicted=bins["predicted"], observed=bins["observed"], count=bins["count"]).with_columns(
            pairs=pl.lit(_PAIRS[kind]), share=pl.col("count") / pl.col("count").sum()
        )
        for kind, bins in scores.items()
    ).filter(pl.col("share") >= SHOWN_SHARE)
    unit, names = alt.Scale(domain=[0, 1]), list(_PAIRS.values())

    def axis(text: str) -> Any:
        return alt.Axis(title=text, format=".0%", tickCount=5)

    x = alt.X("predicted:Q", scale=unit, axis=axis("predicted score"))
    y = alt.Y("observed:Q", scale=unit, axis=axis("observed score"))
    colour = alt.Color("pairs:N", scale=alt.Scale(domain=names, range=[BLUE, ORANGE]), legend=None)
    base = alt.Chart(table_)
    diagonal = alt.Chart(frame(predicted=[0.0, 1.0], observed=[0.0, 1.0]))
    tooltip = [
        alt.Tooltip("pairs:N"),
        *(alt.Tooltip(f"{c}:Q", format=".1%") for c in ("predicted", "observed", "share")),
        alt.Tooltip("count:Q", format=",.1f", title="pairs (called: prompts)"),
    ]
    key = [
        alt.Chart(frame(w=[0.0]))
        .mark_text(text=f"{mark} {name}", align="left", color=shade, fontSize=11, fontWeight=600)
        .encode(x=alt.value(8), y=alt.value(12 + 17 * row))
        for row, (mark, name, shade) in enumerate(zip("●◆", names, (BLUE, ORANGE)))
    ]
    return alt.layer(
        diagonal.mark_line(stroke=GREY, strokeDash=[6, 3], strokeWidth=1.4).encode(x=x, y=y),
        base.mark_line(strokeWidth=1.6, opacity=0.7).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape(
                "pairs:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=None
            ),
            size=alt.Size("share:Q", scale=alt.Scale(domain=[0, 0.5], range=[20, 260]), legend=None),
            tooltip=tooltip,
        ),
        *key,
    ).properties(width=SIDE, height=SIDE, title=alt.TitleParams(title, fontSize=12))


def calibration_section(metrics: Metrics) -> str:
    """Return the section, or one sentence where the policy predicts nothing."""
    title = "Do its predictions hold?"
    splits = reported_splits(metrics)
    if any(metrics["calibration"][name] is None for name, _ in splits):
        kind = metrics["policy"]["kind"]
        return section(title, f"A policy of kind '{kind}' decides without predicting scores or costs.", "")
    note = (
        "Points on the dashed line mean what they say; larger points stand for more predictions, bins with less "
        f"than {SHOWN_SHARE:.1%} of them are not drawn. Called models tend to lie below the line even for a good "
        "policy, because the model that looks best is called. The error is the mean "
        "distance from the line (expected calibration error). Costs are capped at tau, as in the reward."
    )
    body = chart(CALIBRATION) + "".join(
        _calibration_table(metrics["calibration"][name], SPLIT_TITLES[name]) for name, _ in splits
    )
    return section(title, note, body)


def _calibration_table(found: Metrics, title: str) -> str:
    header = (
        "",
        "score predicted",
        "observed",
        "error",
        "USD per 1,000 queries predicted",
        "observed",
        "ratio",
    )
    rows = [
        (
            "policy",
            (
                _PAIRS[kind],
                f"{bins['mean_predicted']:.1%}",
                f"{bins['mean_observed']:.1%}",
                f"{bins['expected_calibration_error']:.3f}",
                *("",) * 3,
            ),
        )
        for kind, bins in found["scores"].items()
    ]
    for model, body in found["models"].items():
        predicted, observed = body["capped_cost_predicted_usd"], body["capped_cost_observed_usd"]
        cells = (
            model,
            f"{body['score_predicted']:.1%}",
            f"{body['score_observed']:.1%}",
            f"{body['score_error']:.3f}",
            f"{predicted * QUERIES:.3g}",
            f"{observed * QUERIES:.3g}",
            f"{predicted / observed:.2f}" if observed else "n/a",
        )
        rows.append(("", cells))
    return table(header, rows, title[0].upper() + title[1:])


def losses_section(metrics: Metrics) -> str:
    """Return where the policy loses against the best single model at one setting, and on which prompts."""
    parts = []
    w_cost = 0.0
    for name, _ in reported_splits(metrics):
        found = metrics["losses"][name]
        w_cost = found["w_cost"]
        title = SPLIT_TITLES[name]
        n = found["n_better"] + found["n_equal"] + found["n_worse"]
        parts.append(
            f"<p><b>{escape(title[0].upper() + title[1:])}.</b> Against {escape(found['best_single_model'])} the "
            f"policy does better on {found['n_better'] / n:.0%} of {n:,} prompts, equally on "
            f"{found['n_equal'] / n:.0%} and worse on {found['n_worse'] / n:.0%} (by a lower score on "
            f"{found['n_lower_score'] / n:.0%}, by cost alone on the rest); mean gain "
            f"{found['mean_gain']:+.4f}.</p>"
        )
        parts += [_task_losses(found["tasks"]), _prompt_losses(found["prompts"])]
    note = (
        f"At w_cost = {w_cost:g}, against the best single model for that preference. A prompt's loss is the "
        "difference of the two rewards on one answer each: single prompts are partly chance, tasks less so."
    )
    return section("Where it loses", note, "".join(parts))


def _task_losses(tasks: Metrics) -> str:
    ranked = sorted(tasks.items(), key=lambda item: (item[1]["mean_gain"], item[0]))[:MAX_TASKS]
    rows = [
        (
            "",
            (
                task,
                f"{body['n_prompts']:,}",
                f"{body['share_worse']:.0%}",
                f"{body['mean_gain']:+.4f}",
                "too few prompts"
                if body["interval"] is None
                else f"[{body['interval'][0]:+.4f}, {body['interval'][1]:+.4f}]",
            ),
        )
        for task, body in ranked
    ]
    title = "Weakest tasks" if len(tasks) > MAX_TASKS else "Tasks, the weakest first"
    return table((title, "prompts", "worse on", "mean gain", "95 % interval"), rows)


def _prompt_losses(prompts: list[Metrics]) -> str:
    if not prompts:
        return "<p>No single prompt is listed.</p>"
    header = ("prompts with the largest loss", "task", "called", "better", "loss")
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = []
    for row in prompts:
        shown = row["prompt_id"] if row["excerpt"] is None else row["excerpt"]
        body.append(
            f'<tr><td class="text" title="{escape(row["prompt_id"])}">{escape(shown)}</td>'
            f"<td>{escape(row['task'])}</td>{_call(row, 'called')}{_call(row, 'better')}"
            f"<td>{row['regret']:.3f}</td></tr>"
        )
    return f'<table class="texts"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _call(row: Metrics, name: str) -> str:
    figures = f"score {row[f'{name}_score']:.3g}, {row[f'{name}_cost_usd'] * QUERIES:.3g} USD per 1,000"
    return f'<td>{escape(row[name])}<br><span class="note">{figures}</span></td>'


def health_section(metrics: Metrics) -> str:
    """Return the checks: state, what was counted, and where looking and alarm start."""
    rows = [
        (
            f"state-{check['state']}",
            (
                STATES[check["state"]],
                check["text"],
                f"{check['value']:.1%}",
                _bound(check["look"]),
                _bound(check["alarm"]),
            ),
        )
        for check in metrics["health"]
    ]
    worst = [check for check in metrics["health"] if check["state"] != "ok"]
    note = (
        "All checks are in order."
        if not worst
        else f"{len(worst)} of {len(metrics['health'])} checks want attention."
    )
    body = table(("state", "check", "measured", "look from", "alarm from"), rows)
    return section("Has it learned?", note, f'<div class="checks">{body}</div>')


def _bound(value: float) -> str:
    return "above 0" if value < 1e-6 else f"{value * 100:.3g}%"
