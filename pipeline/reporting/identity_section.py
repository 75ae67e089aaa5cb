"""LLM Bandit's section of the report: how it learned, and where its models lie among each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.reporting.labels import place_labels
from pipeline.reporting.page import chart, section
from pipeline.reporting.style import BLUE, GREY, INK, ORANGE, SHARE_COLOURS
from pipeline.training_evidence import COUNTERS, by_family

CURVES, MAP = "learning-curves", "identity-map"

PANEL = 196
MAP_WIDTH, MAP_HEIGHT = 620, 430
SHAPES = ("square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right")
OTHERS, OTHERS_SHAPE = "other", "circle"
"""A model without relatives in the pool, or of one of the smaller families when there are more than shapes."""

ELLIPSE_SHARE = 0.95
ELLIPSE_POINTS = 48


@dataclass(frozen=True)
class _Panel:
    """One stage's curves: where they are recorded, and key and label of each line."""

    stage: str
    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


_PANELS = (
    _Panel(
        "identity",
        "Identity vectors",
        "nats per observation",
        (
            ("loss", "evidence bound, negative"),
            ("score_loss", "scores, training"),
            ("validation_score_loss", "scores, validation"),
        ),
    ),
    _Panel("pretrain", "Pretraining", "loss", (("imitation_loss", "decisions"), ("value_loss", "values"))),
    _Panel(
        "ppo", "PPO, validation", "mean reward over the dial", (("validation_reward", "greedy decisions"),)
    ),
    _Panel("ppo", "PPO, training", "mean reward of the draws", (("reward", "sampled decisions"),)),
)

_COLOURS = (BLUE, ORANGE, INK)
_DASHES = ([1, 0], [5, 3], [1, 2])
"""Of a panel's lines, which are told apart without colour as well."""


def identity_charts(evidence: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the charts of a run's training evidence by name; none for another policy."""
    if evidence is None:
        return {}
    made = {MAP: identity_map_chart(evidence["identity_map"])}
    panels = [_drawn(panel, evidence["curves"][panel.stage]) for panel in _PANELS]
    shown = [panel for panel in panels if panel is not None]
    if shown:
        made[CURVES] = alt.hconcat(*shown, spacing=66, bounds="flush").resolve_scale(
            color="independent", strokeDash="independent"
        )
    return made


def identity_section(evidence: Mapping[str, Any] | None, drawn: Mapping[str, Any]) -> list[str]:
    """Return the sections that the policy has; none for a policy without identity vectors."""
    if evidence is None:
        return []
    found = []
    if CURVES in drawn:
        note = (
            "The bound counts scores, comparisons, answer lengths and the divergence to the prior; the other two "
            "lines are the cross-entropy of the scores alone. Iteration 0 of PPO is the pretrained policy; of the "
            "validated iterations the best is kept."
        )
        found.append(section("How it learned", note, chart(CURVES)))
    shares = evidence["identity_map"]["shares"]
    note = (
        "The identity vectors on the two axes along which they differ most "
        f"({sum(shares):.0%} of the variance), in the metric of the scoring network: the distance of two models is how "
        "far apart their predicted scores are, in logits over the training prompts. Models that lie close are "
        f"predicted to do well on the same prompts. Ellipses hold {ELLIPSE_SHARE:.0%} of the posterior: where they "
        "are wide, few answers were seen. The two axes differ in scale. Colour and shape tell families of at least two."
    )
    return [*found, section("How models resemble each other", note, chart(MAP))]


def _drawn(panel: _Panel, lines: Sequence[Mapping[str, float]]) -> Any | None:
    counter, keys = COUNTERS[panel.stage], panel.lines
    rows = [
        {"at": line[counter], "value": line[key], "line": label}
        for key, label in keys
        for line in lines
        if line.get(key) is not None
    ]
    if not rows:
        return None
    labels = [label for _, label in keys if any(row["line"] == label for row in rows)]
    colours, dashes = list(_COLOURS[: len(labels)]), list(_DASHES[: len(labels)])
    legend = alt.Legend(
        title=None, orient="bottom", direction="vertical", symbolStrokeWidth=2.2, symbolSize=260
    )
    shown = legend if len(labels) > 1 else None
    base = alt.Chart(pl.DataFrame(rows, schema_overrides={"at": pl.Float64, "value": pl.Float64}))
    encoded = base.encode(
        x=alt.X(
            "at:Q", axis=alt.Axis(title=counter, tickCount=5, tickMinStep=1), scale=alt.Scale(nice=False)
        ),
        y=alt.Y(
            "value:Q",
            axis=alt.Axis(title=panel.unit, tickCount=6, format="~g"),
            scale=alt.Scale(zero=False, nice=6),
        ),
        color=alt.Color("line:N", sort=labels, scale=alt.Scale(domain=labels, range=colours), legend=shown),
        tooltip=["line:N", alt.Tooltip("at:Q", title=counter), alt.Tooltip("value:Q", format=".4f")],
    )
    dash = alt.StrokeDash("line:N", sort=labels, scale=alt.Scale(domain=labels, range=dashes), legend=shown)
    drawn = encoded.mark_line(strokeWidth=2.0).encode(strokeDash=dash)
    if len(rows) <= 2 * len(labels) or counter == "iteration":
        drawn = alt.layer(drawn, encoded.mark_circle(size=30, opacity=1))
    return drawn.properties(
        width=PANEL, height=PANEL, title=alt.TitleParams(panel.title, fontSize=12, frame="group")
    )


def identity_map_chart(found: Mapping[str, Any]) -> Any:
    """Return the map: models as points with ellipses, families by colour and shape, names beside them."""
    models = found["models"]
    families = list(by_family(models))[: len(SHAPES)]
    groups = {name: body["family"] if body["family"] in families else OTHERS for name, body in models.items()}
    order = [*families, *([OTHERS] if OTHERS in groups.values() else [])]
    colours = [GREY if group == OTHERS else SHARE_COLOURS[k] for k, group in enumerate(order)]
    shapes = [OTHERS_SHAPE if group == OTHERS else SHAPES[k] for k, group in enumerate(order)]
    names = list(models)
    places = np.array([[models[name]["x"], models[name]["y"]] for name in names])
    outlines = [_ellipse(places[k], np.array(models[name]["covariance"])) for k, name in enumerate(names)]
    x, y = _domains(np.concatenate([places, *outlines]))
    pixels = _pixels(places, x, y)
    labels = place_labels(pixels, names, np.empty((0, 2)), width=MAP_WIDTH, height=MAP_HEIGHT)

    points = pl.DataFrame(
        {"model": names, "x": places[:, 0], "y": places[:, 1], "family": [groups[name] for name in names]}
    )
    rings = pl.concat(
        pl.DataFrame({"x": ring[:, 0], "y": ring[:, 1], "at": np.arange(len(ring))}).with_columns(
            model=pl.lit(name), family=pl.lit(groups[name])
        )
        for name, ring in zip(names, outlines, strict=True)
    )
    across = alt.X("x:Q", scale=alt.Scale(domain=x, nice=False), axis=_axis(found["shares"][0], "first"))
    along = alt.Y("y:Q", scale=alt.Scale(domain=y, nice=False), axis=_axis(found["shares"][1], "second"))
    colour = alt.Scale(domain=order, range=colours)
    legend = alt.Legend(title="family", orient="right", symbolSize=90)
    ellipses = [
        alt.Chart(rings.filter(pl.col("family") == group))
        .mark_line(
            interpolate="linear-closed",
            stroke=shade,
            fill=shade,
            strokeWidth=1.0,
            strokeOpacity=0.55,
            fillOpacity=0.1,
        )
        .encode(x=across, y=along, detail="model:N", order="at:Q")
        for group, shade in zip(order, colours, strict=True)
    ]
    marks = (
        alt.Chart(points)
        .mark_point(filled=True, size=95, opacity=1)
        .encode(
            x=across,
            y=along,
            color=alt.Color("family:N", sort=order, scale=colour, legend=legend),
            shape=alt.Shape(
                "family:N", sort=order, scale=alt.Scale(domain=order, range=shapes), legend=legend
            ),
            tooltip=[
                "model:N",
                "family:N",
                alt.Tooltip("x:Q", format=".2f"),
                alt.Tooltip("y:Q", format=".2f"),
            ],
        )
    )
    texts = [
        alt.Chart(pl.DataFrame({"x": [place[0]], "y": [place[1]]}))
        .mark_text(text=name, dx=label.dx, dy=label.dy, align=label.align, color=INK, fontSize=11)
        .encode(x=across, y=along)
        for place, name, label in zip(places, names, labels, strict=True)
    ]
    return alt.layer(*ellipses, marks, *texts).properties(width=MAP_WIDTH, height=MAP_HEIGHT)


def _axis(share: float, which: str) -> Any:
    return alt.Axis(
        title=f"{which} principal axis, logits ({share:.0%} of the variance)", tickCount=6, format="~g"
    )


def _ellipse(centre: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the outline that holds ``ELLIPSE_SHARE`` of a Gaussian, shape (ELLIPSE_POINTS, 2)."""
    # The squared distance of a plane Gaussian is exponential: its quantiles have a closed form.
    radius = np.sqrt(-2.0 * np.log(1.0 - ELLIPSE_SHARE))
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0.0, 2.0 * np.pi, ELLIPSE_POINTS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.round(centre + radius * (circle * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, 6)


def _domains(points: npt.NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Return the ranges of both axes, each as wide as its points: the first axis would flatten the second."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.maximum(high - low, 1e-9) * 0.06
    low, high = low - margin, high + margin
    return [float(low[0]), float(high[0])], [float(low[1]), float(high[1])]


def _pixels(
    points: npt.NDArray[np.float64], x: Sequence[float], y: Sequence[float]
) -> npt.NDArray[np.float64]:
    across = (points[:, 0] - x[0]) / (x[1] - x[0]) * MAP_WIDTH
    along = (y[1] - points[:, 1]) / (y[1] - y[0]) * MAP_HEIGHT
    return np.stack([across, along], axis=1)
