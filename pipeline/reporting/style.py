"""Colours, fonts and small helpers that the report's charts share.

Colours are Okabe and Ito's, told apart by every common kind of colour blindness; what matters is labelled
directly or told apart by shape and dash as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, YELLOW, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#000000",
)  # fmt: skip
INK, GREY, FAINT = "#1f2933", "#6b7280", "#e5e7eb"
SHARE_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, YELLOW)
BASELINE_COLOURS = (ORANGE, SKY, PURPLE, GREEN, BLACK, YELLOW, VERMILLION)
OTHER_COLOUR = "#b8bec7"
FONT = "Inter, Segoe UI, Helvetica Neue, Arial, Liberation Sans, sans-serif"

QUERIES = 1000
"""Costs are shown per thousand queries: per query they are too small to read."""

SPLIT_TITLES = {"test": "held-out prompts", "ood": "held-out tasks"}
Split = Mapping[str, Any]


def reported_splits(metrics: Mapping[str, Any]) -> list[tuple[str, Split]]:
    """Return name and figures of the measured splits: held-out prompts first, then held-out tasks."""
    return [(name, metrics["splits"][name]) for name in SPLIT_TITLES if name in metrics["splits"]]


def styled(chart: Any) -> Any:
    """Return the chart with the report's fonts, grid and spacing."""
    return (
        chart.configure(font=FONT, background="white", padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=GREY, titleColor=INK, titleFontWeight="normal", titleFontSize=12, labelFontSize=11,
            gridColor=FAINT, domainColor="#9aa2ad", tickColor="#9aa2ad", titlePadding=8,
        )
        .configure_title(
            anchor="start", fontSize=14, fontWeight=600, color=INK, subtitleColor=GREY, subtitleFontSize=12,
            offset=12,
        )
        .configure_legend(
            labelColor=INK, labelFontSize=11, titleColor=GREY, titleFontSize=11, titleFontWeight="normal",
            symbolStrokeWidth=0,
        )
    )  # fmt: skip


def dial_axis(ticks: int = 5) -> Any:
    """Return the horizontal axis of everything drawn against the dial."""
    axis = alt.Axis(title="w_cost", tickCount=ticks, format="~g")
    return alt.X("w:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=axis)


def zero_line() -> Any:
    """Return the dashed line of the best single model in charts of what is gained beyond it."""
    base = alt.Chart(frame(zero=[0.0]))
    return base.mark_rule(stroke=VERMILLION, strokeDash=[6, 3], strokeWidth=1.8)


def frame(**columns: Any) -> pl.DataFrame:
    """Return a frame of float columns."""
    return pl.DataFrame({name: np.asarray(values, dtype=np.float64) for name, values in columns.items()})


def bounds(
    name: str, intervals: Sequence[Sequence[float] | None], values: Sequence[float], factor: float = 1.0
) -> dict[str, list[float]]:
    """Return lower and upper bounds; a point without an interval is its own."""
    pairs = [(v, v) if i is None else (i[0], i[1]) for i, v in zip(intervals, values)]
    return {
        f"{name}_low": [low * factor for low, _ in pairs],
        f"{name}_high": [high * factor for _, high in pairs],
    }
