"""Charts of the dial and of single tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from pipeline.reporting.style import (
    BLUE,
    INK,
    ORANGE,
    OTHER_COLOUR,
    QUERIES,
    SHARE_COLOURS,
    SPLIT_TITLES,
    VERMILLION,
    Split,
    bounds,
    dial_axis,
    frame,
    reported_splits,
    zero_line,
)
from pipeline.routers import BEST_SINGLE, POLICY

PANEL = 196
COST_TITLE = "Mean cost"


def dial(metrics: Mapping[str, Any], split_name: str) -> Any:
    """Return expected cost, quality and action shares of the policy against ``w_cost``."""
    split = metrics["splits"][split_name]
    policy, fixed, w = split["routers"][POLICY], split["routers"][BEST_SINGLE], metrics["w_cost"]
    panels = [
        _against_dial(w, policy, fixed, "cost_usd", QUERIES, COST_TITLE, "USD per 1,000 queries", "~g"),
        _against_dial(w, policy, fixed, "quality", 1.0, "Mean quality", "score", ".0%"),
        _shares(w, policy, metrics["models"], split["single_models"]),
    ]
    return alt.hconcat(*panels, spacing=34).resolve_scale(color="independent")


def _against_dial(
    w: Sequence[float], policy: Split, fixed: Split, key: str, factor: float, title: str, unit: str, fmt: str
) -> Any:
    axis, scale = alt.Axis(title=unit, format=fmt, tickCount=6), alt.Scale(zero=False)
    y = alt.Y("value:Q", scale=scale, axis=axis)
    values = np.array(policy[key]) * factor
    table = frame(w=w, value=values, **bounds("value", policy[f"{key}_intervals"], policy[key], factor))
    bar = alt.Chart(frame(w=w, value=np.array(fixed[key]) * factor))
    base = alt.Chart(table)
    # Cost falls along the dial: the upper right corner of its panel is free for the key of both.
    legend = [
        alt.Chart(frame(w=[1.0]))
        .mark_text(text=text, align="right", color=colour, fontSize=11, fontWeight=600)
        .encode(x=alt.value(PANEL - 4), y=alt.value(12 + 17 * row))
        for row, (text, colour) in enumerate((("this policy", BLUE), ("best single model", VERMILLION)))
        if title == COST_TITLE
    ]
    band = alt.Y("value_low:Q", axis=axis, scale=scale)
    tooltip = [alt.Tooltip("w:Q", title="w_cost"), alt.Tooltip("value:Q", title=unit, format=".4~g")]
    return alt.layer(
        base.mark_area(color=BLUE, opacity=0.16).encode(x=dial_axis(), y=band, y2="value_high:Q"),
        # A step holds from its setting on: the best single model changes between settings, not gradually.
        bar.mark_line(stroke=VERMILLION, strokeDash=[6, 3], strokeWidth=1.8, interpolate="step-after").encode(
            x=dial_axis(), y=y
        ),
        base.mark_line(stroke=BLUE, strokeWidth=2.4).encode(x=dial_axis(), y=y),
        base.mark_circle(color=BLUE, size=26, opacity=1).encode(x=dial_axis(), y=y, tooltip=tooltip),
        *legend,
    ).properties(width=PANEL, height=PANEL, title=alt.TitleParams(title, fontSize=12))


def _shares(w: Sequence[float], policy: Split, names: Sequence[str], models: Mapping[str, Any]) -> Any:
    shares = np.array(policy["action_shares"])
    main = set(np.argsort(-shares.mean(axis=0), kind="stable")[: len(SHARE_COLOURS)].tolist())
    main = {j for j in main if shares[:, j].max() > 0.0}
    by_cost = sorted(main, key=lambda j: (models[names[j]]["cost_usd"], names[j]))
    rest = [j for j in range(len(names)) if j not in main]
    order = [names[j] for j in by_cost]
    columns = [shares[:, j] for j in by_cost]
    colours = list(SHARE_COLOURS[: len(order)])
    if shares[:, rest].sum() > 0.0:
        order.append(f"{len(rest)} others")
        columns.append(shares[:, rest].sum(axis=1))
        colours.append(OTHER_COLOUR)
    table = pl.concat(
        frame(w=w, share=column).with_columns(model=pl.lit(name), rank=pl.lit(rank))
        for rank, (name, column) in enumerate(zip(order, columns))
    )
    legend = alt.Legend(
        title="called model (dearest on top)",
        orient="right",
        symbolType="square",
        symbolSize=110,
        labelLimit=160,
    )
    scale = alt.Scale(domain=order[::-1], range=colours[::-1])
    return (
        alt.Chart(table)
        .mark_area(strokeWidth=0.8, stroke="white")
        .encode(
            x=dial_axis(),
            y=alt.Y(
                "share:Q",
                stack="zero",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(title="share of prompts", format=".0%"),
            ),
            order=alt.Order("rank:Q"),
            color=alt.Color("model:N", sort=order, scale=scale, legend=legend),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("w:Q", title="w_cost"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .properties(width=PANEL, height=PANEL, title=alt.TitleParams("Who is called", fontSize=12))
    )


def gain_over_dial(metrics: Mapping[str, Any]) -> Any:
    """Return the policy's gain in mean reward over the best single model at each setting, per split."""
    panels = []
    for name, split in reported_splits(metrics):
        policy = split["routers"][POLICY]
        table = frame(
            w=metrics["w_cost"],
            gain=policy["gains"],
            **bounds("gain", policy["gain_intervals"], policy["gains"]),
        )
        base = alt.Chart(table)
        axis = alt.Axis(title="gain in mean reward", format="+.2f", tickCount=6)
        layers = [
            base.mark_area(color=BLUE, opacity=0.16).encode(
                x=dial_axis(), y=alt.Y("gain_low:Q", axis=axis), y2="gain_high:Q"
            ),
            zero_line().encode(y="zero:Q"),
            base.mark_line(stroke=BLUE, strokeWidth=2.4).encode(x=dial_axis(), y=alt.Y("gain:Q", axis=axis)),
            base.mark_circle(color=BLUE, size=26, opacity=1).encode(
                x=dial_axis(),
                y="gain:Q",
                tooltip=[alt.Tooltip("w:Q", title="w_cost"), alt.Tooltip("gain:Q", format="+.4f")],
            ),
        ]
        title = SPLIT_TITLES[name][0].upper() + SPLIT_TITLES[name][1:]
        panels.append(
            alt.layer(*layers).properties(width=400, height=210, title=alt.TitleParams(title, fontSize=12))
        )
    return alt.hconcat(*panels, spacing=40).resolve_scale(y="shared")


def task_chart(metrics: Mapping[str, Any]) -> Any:
    """Return each task's gain over the best single model per preference, with intervals."""
    rows = []
    for name, split in reported_splits(metrics):
        for task, body in split["tasks"].items():
            low, high = body["gain_interval"] or (body["gain_over_best_single"],) * 2
            rows.append(
                {
                    "task": f"{task}  ({body['n_prompts']:,})", "gain": body["gain_over_best_single"],
                    "low": low, "high": high, "split": SPLIT_TITLES[name],
                }
            )  # fmt: skip
    rows.sort(key=lambda r: (r["split"] != SPLIT_TITLES["test"], -r["gain"], r["task"]))
    table = pl.DataFrame(rows)
    order = [row["task"] for row in rows]
    colour = alt.Color(
        "split:N",
        scale=alt.Scale(domain=list(SPLIT_TITLES.values()), range=[BLUE, ORANGE]),
        legend=alt.Legend(title=None, orient="top", symbolType="circle", symbolOpacity=1)
        if len(metrics["splits"]) > 1
        else None,
    )
    y = alt.Y(
        "task:N",
        sort=order,
        axis=alt.Axis(title=None, labelLimit=260, labelColor=INK, ticks=False, grid=False),
    )
    base = alt.Chart(table)
    axis = alt.Axis(
        title="gain in mean reward over the best single model per preference", format="+.2f", tickCount=8
    )
    names = list(SPLIT_TITLES.values())
    shape = alt.Shape("split:N", scale=alt.Scale(domain=names, range=["circle", "diamond"]), legend=None)
    tooltip = [
        alt.Tooltip("task:N"),
        *(alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("gain", "low", "high")),
    ]
    return alt.layer(
        zero_line().encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2.4, opacity=0.45).encode(
            x=alt.X("low:Q", axis=axis), x2="high:Q", y=y, color=colour
        ),
        base.mark_point(size=62, filled=True, opacity=1).encode(
            x=alt.X("gain:Q", axis=axis), y=y, color=colour, shape=shape, tooltip=tooltip
        ),
    ).properties(width=640, height=alt.Step(24))
