"""Charts of an evaluation on a feedback log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from pipeline.reporting.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    VERMILLION,
    bounds,
    dial_axis,
    frame,
    zero_line,
)

DECISION_COLOURS = {"ship": GREEN, "do not ship": VERMILLION, "not enough data": GREY}
DECISION_SHAPES = {"ship": "triangle-up", "do not ship": "triangle-down", "not enough data": "circle"}


def value_over_dial(evaluation: Mapping[str, Any], estimator: str) -> Any:
    """Return estimated value against ``w_cost`` for policy and incumbent, with intervals."""
    names = ("this policy", "incumbent")
    tables = []
    for name, side in zip(names, ("candidate", "incumbent")):
        estimates = evaluation[side]["estimates"]
        # The policy that logged has one line only: its observed mean reward.
        body = estimates.get(estimator) or next(iter(estimates.values()))
        tables.append(
            frame(
                w=evaluation["w_cost"],
                value=body["values"],
                **bounds("value", body["intervals"], body["values"]),
            ).with_columns(who=pl.lit(name))
        )
    base = alt.Chart(pl.concat(tables))
    colour = alt.Color(
        "who:N",
        scale=alt.Scale(domain=list(names), range=[BLUE, ORANGE]),
        legend=alt.Legend(
            title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1
        ),
    )
    dash = alt.StrokeDash("who:N", scale=alt.Scale(domain=list(names), range=[[1, 0], [6, 3]]), legend=None)
    axis, scale = alt.Axis(title="mean reward", tickCount=6), alt.Scale(zero=False)
    tooltip = [
        alt.Tooltip("who:N"),
        alt.Tooltip("w:Q", title="w_cost"),
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("value", "value_low", "value_high")),
    ]
    return alt.layer(
        base.mark_area(opacity=0.15).encode(
            x=dial_axis(), y=alt.Y("value_low:Q", axis=axis, scale=scale), y2="value_high:Q", color=colour
        ),
        base.mark_line(strokeWidth=2.4).encode(
            x=dial_axis(), y=alt.Y("value:Q", axis=axis, scale=scale), color=colour, strokeDash=dash
        ),
        base.mark_circle(size=26, opacity=1).encode(
            x=dial_axis(), y="value:Q", color=colour, tooltip=tooltip
        ),
    ).properties(width=820, height=280)


def difference_over_dial(evaluation: Mapping[str, Any]) -> Any:
    """Return the paired difference against ``w_cost`` with the verdict's bounds."""
    rows = evaluation["verdict"]["by_preference"]
    values = [row["difference"] for row in rows]
    table = frame(w=evaluation["w_cost"], gain=values, **bounds("gain", _intervals(rows), values))
    table = table.with_columns(decision=pl.Series([str(row["decision"]) for row in rows]))
    base = alt.Chart(table)
    axis = alt.Axis(title="policy minus incumbent, mean reward", format="+.2f", tickCount=6)
    return alt.layer(
        base.mark_area(color=BLUE, opacity=0.16).encode(
            x=dial_axis(), y=alt.Y("gain_low:Q", axis=axis), y2="gain_high:Q"
        ),
        zero_line().encode(y="zero:Q"),
        base.mark_line(stroke=BLUE, strokeWidth=2.4).encode(x=dial_axis(), y=alt.Y("gain:Q", axis=axis)),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=dial_axis(),
            y="gain:Q",
            color=_decision_colour(),
            shape=_decision_shape(),
            tooltip=_tooltip("w"),
        ),
    ).properties(width=820, height=240)


def segments(evaluation: Mapping[str, Any]) -> Any:
    """Return each task's difference with the verdict's bounds."""
    rows = sorted(evaluation["verdict"]["by_segment"], key=lambda row: (-row["difference"], row["label"]))
    values = [row["difference"] for row in rows]
    table = frame(gain=values, **bounds("gain", _intervals(rows), values)).with_columns(
        task=pl.Series([f"{str(row['label']).removeprefix('task=')}  ({row['n_events']:,})" for row in rows]),
        decision=pl.Series([str(row["decision"]) for row in rows]),
    )
    base = alt.Chart(table)
    y = alt.Y(
        "task:N",
        sort=table["task"].to_list(),
        axis=alt.Axis(title=None, labelLimit=260, labelColor=INK, ticks=False, grid=False),
    )
    axis = alt.Axis(title="policy minus incumbent, mean reward over the dial", format="+.2f", tickCount=8)
    return alt.layer(
        zero_line().encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2.4, opacity=0.45).encode(
            x=alt.X("gain_low:Q", axis=axis), x2="gain_high:Q", y=y, color=_decision_colour()
        ),
        base.mark_point(size=70, filled=True, opacity=1).encode(
            x=alt.X("gain:Q", axis=axis),
            y=y,
            color=_decision_colour(),
            shape=_decision_shape(),
            tooltip=_tooltip("task"),
        ),
    ).properties(width=680, height=alt.Step(24))


def _intervals(rows: list[Mapping[str, Any]]) -> list[list[float] | None]:
    return [None if row["lower"] is None else [row["lower"], row["upper"]] for row in rows]


def _decision_colour() -> Any:
    scale = alt.Scale(domain=list(DECISION_COLOURS), range=list(DECISION_COLOURS.values()))
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=90)
    return alt.Color("decision:N", scale=scale, legend=legend)


def _decision_shape() -> Any:
    scale = alt.Scale(domain=list(DECISION_SHAPES), range=list(DECISION_SHAPES.values()))
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=90)
    return alt.Shape("decision:N", scale=scale, legend=legend)


def _tooltip(key: str) -> list[Any]:
    first = alt.Tooltip("w:Q", title="w_cost") if key == "w" else alt.Tooltip("task:N")
    figures = (alt.Tooltip(f"{c}:Q", format="+.4f") for c in ("gain", "gain_low", "gain_high"))
    return [first, *figures, alt.Tooltip("decision:N")]
