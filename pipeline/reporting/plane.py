"""The cost-quality plane: what the policy's dial buys against single models and their mixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from pipeline.reporting.labels import place_labels
from pipeline.reporting.style import (
    BASELINE_COLOURS,
    BLUE,
    GREEN,
    GREY,
    INK,
    OTHER_COLOUR,
    QUERIES,
    VERMILLION,
    Split,
    bounds,
    dial_axis,
    frame,
    zero_line,
)
from pipeline.routers import BEST_SINGLE, ORACLE, POLICY

LOG_SPAN = 5.0
"""From this ratio of dearest to cheapest on, costs are drawn on a logarithmic axis."""

COLOURED_BASELINES = 4
"""So many baselines, the best by mean reward, are drawn in colours of their own."""

_PROMPTS = {"test": "held-out prompts", "ood": "prompts of held-out tasks"}

PLANE_WIDTH, PLANE_HEIGHT = 640, 430


def plane(metrics: Mapping[str, Any], split_name: str) -> Any:
    """Return the cost-quality plane: models, mix line, the policy's dial, baselines; the oracle beside it."""
    split = metrics["splits"][split_name]
    main = _Plane(split, metrics["w_cost"])
    oracle = split["routers"][ORACLE]
    title = alt.TitleParams(
        f"Cost and quality on {split['n_prompts']:,} {_PROMPTS[split_name]}",
        subtitle=[
            "Blue: the policy at each setting of the dial, from w_cost = 0 (quality alone) to 1 (cost alone), "
            "with 95 % intervals. Diamonds: the best",
            "single model at some setting. Off the chart: the oracle, "
            f"up to {max(oracle['quality']):.0%} at {min(oracle['cost_usd'][:-1]) * QUERIES:.2g} to "
            f"{max(oracle['cost_usd']) * QUERIES:.2g} USD per 1,000 queries.",
        ],
    )  # fmt: skip
    both = alt.hconcat(main.chart(), _headroom(split, metrics["w_cost"]), spacing=36)
    return both.resolve_scale(color="independent").properties(title=title)


class _Plane:
    """Scales and layers of the plane around the models and the dial."""

    def __init__(self, split: Split, w_cost: Sequence[float]) -> None:
        self.split, self.w_cost = split, w_cost
        self.policy = split["routers"][POLICY]
        self.models = split["single_models"]
        rows = [r for r in split["routers"].values() if r["role"] == "baseline"]
        self.baselines = sorted(rows, key=lambda r: (-r["mean_reward"], r["label"]))
        # More than a few colours cannot be told apart: the weaker ones are shown as a bundle.
        many = len(rows) > COLOURED_BASELINES + 1
        self.best_baselines = self.baselines[:COLOURED_BASELINES] if many else self.baselines
        costs = [m["cost_usd"] for m in self.models.values()] + list(self.policy["cost_usd"])
        qualities = [m["quality"] for m in self.models.values()] + list(self.policy["quality"])
        spans = bounds("q", self.policy["quality_intervals"], self.policy["quality"])
        self.log = min(costs) > 0.0 and max(costs) / min(costs) >= LOG_SPAN
        low, high = min(costs) * QUERIES, max(costs) * QUERIES
        margin = (high / low) ** 0.08 if self.log else (high - low) * 0.06 or 1.0
        self.x = (low / margin, high * margin) if self.log else (max(0.0, low - margin), high + margin)
        spread = (max(qualities) - min(qualities)) * 0.08 or 0.05
        reached = [q for r in self.best_baselines for q in r["quality"]]
        bottom, top = min(qualities) - spread, max(*spans["q_high"], max(qualities + reached) + spread)
        self.y = (max(0.0, bottom), min(1.0, top))

    def chart(self) -> Any:
        layers = [self._mix_line(), *self._baselines(), *self._dial(), *self._singles(), *self._labels()]
        return alt.layer(*layers).properties(width=PLANE_WIDTH, height=PLANE_HEIGHT)

    def _enc(self, x: str = "cost", y: str = "quality") -> dict[str, Any]:
        kind = "log" if self.log else "linear"
        ticks = _log_ticks(*self.x) if self.log else None
        title = f"mean cost, USD per 1,000 queries{' (log scale)' if self.log else ''}"
        axis = alt.Axis(title=title, format="~g", **({"values": ticks} if ticks else {}))
        return {
            "x": alt.X(f"{x}:Q", scale=alt.Scale(type=kind, domain=list(self.x), nice=False), axis=axis),
            "y": alt.Y(
                f"{y}:Q",
                scale=alt.Scale(domain=list(self.y), zero=False, nice=False),
                axis=alt.Axis(title="mean quality (score)", format=".0%", tickCount=6),
            ),
        }

    def _pixels(self, cost: Any, quality: Any) -> np.ndarray:
        c, q = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
        low, high = self.x
        across = np.log(c / low) / np.log(high / low) if self.log else (c - low) / (high - low)
        up = (q - self.y[0]) / (self.y[1] - self.y[0])
        return np.stack([across * PLANE_WIDTH, (1.0 - up) * PLANE_HEIGHT], axis=1)

    def _from_pixels(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across, up = pixels[:, 0] / PLANE_WIDTH, 1.0 - pixels[:, 1] / PLANE_HEIGHT
        low, high = self.x
        cost = low * (high / low) ** across if self.log else low + across * (high - low)
        return cost, self.y[0] + up * (self.y[1] - self.y[0])

    def _mix_curve(self) -> tuple[np.ndarray, np.ndarray]:
        hull = np.array(self.split["mix_line"]["points"])
        c, q = hull[:, 0] * QUERIES, hull[:, 1]
        grid = np.geomspace(c[0], c[-1], 120) if self.log else np.linspace(c[0], c[-1], 120)
        grid = np.append(grid, self.x[1])
        return grid, np.interp(grid, c, q)

    def _mix_line(self) -> Any:
        cost, quality = self._mix_curve()
        return (
            alt.Chart(frame(cost=cost, quality=quality))
            .mark_line(stroke=GREY, strokeDash=[5, 4], strokeWidth=1.5, clip=True)
            .encode(**self._enc())
        )

    def _baselines(self) -> list[Any]:
        rows, best = self.baselines, self.best_baselines
        if not rows:
            return []
        rest = f"{len(rows) - len(best)} other baselines"
        shown = [(r, r["label"]) for r in best] + [(r, rest) for r in rows[len(best) :]]
        table = pl.concat(
            frame(cost=np.array(r["cost_usd"]) * QUERIES, quality=r["quality"], w=self.w_cost).with_columns(
                router=pl.lit(name), line=pl.lit(r["label"])
            )
            for r, name in reversed(shown)
        )
        names = list(dict.fromkeys(name for _, name in shown))
        colours = [*BASELINE_COLOURS[: len(best)], OTHER_COLOUR][: len(names)]
        legend = alt.Legend(
            title="baselines", orient="bottom-right", symbolType="stroke", symbolStrokeWidth=2.5, offset=8
        )
        return [
            alt.Chart(table)
            .mark_line(strokeWidth=1.4, opacity=0.9, clip=True)
            .encode(
                **self._enc(),
                order="w:Q",
                detail="line:N",
                color=alt.Color("router:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            )
        ]

    def _dial(self) -> list[Any]:
        policy = self.policy
        table = frame(
            cost=np.array(policy["cost_usd"]) * QUERIES, quality=policy["quality"], w=self.w_cost,
            **bounds("quality", policy["quality_intervals"], policy["quality"]),
        )  # fmt: skip
        base = alt.Chart(table)
        tooltip = [
            alt.Tooltip("w:Q", title="w_cost", format=".2f"),
            alt.Tooltip("cost:Q", title="USD per 1,000", format=".3~g"),
            alt.Tooltip("quality:Q", title="quality", format=".1%"),
        ]
        band = self._enc(y="quality_low") | {"y2": "quality_high:Q"}
        return [
            base.mark_area(color=BLUE, opacity=0.13, clip=True).encode(**band),
            base.mark_line(stroke=BLUE, strokeWidth=2.4).encode(**self._enc(), order="w:Q"),
            base.mark_circle(color=BLUE, size=42, opacity=1).encode(**self._enc(), tooltip=tooltip),
        ]

    def _singles(self) -> list[Any]:
        best = set(self.split["best_single_model_per_setting"])
        rows = [
            {"model": m, "cost": v["cost_usd"] * QUERIES, "quality": v["quality"], "best": m in best}
            for m, v in self.models.items()
        ]
        base = alt.Chart(pl.DataFrame(rows))
        tooltip = [
            alt.Tooltip("model:N"),
            alt.Tooltip("cost:Q", title="USD per 1,000", format=".3~g"),
            alt.Tooltip("quality:Q", title="quality", format=".1%"),
        ]
        return [
            base.transform_filter("datum.best")
            .mark_point(shape="diamond", size=150, stroke=VERMILLION, strokeWidth=2, fill="white", opacity=1)
            .encode(**self._enc(), tooltip=tooltip),
            base.transform_filter("!datum.best")
            .mark_point(shape="circle", size=46, stroke=INK, strokeWidth=1.4, fill="white", opacity=1)
            .encode(**self._enc(), tooltip=tooltip),
        ]

    def _labels(self) -> list[Any]:
        cost_w = np.array(self.policy["cost_usd"]) * QUERIES
        curve, height = self._mix_curve()
        # The dial's ends are named first among equals: they are what the reader looks for.
        ends = [
            (0, f"{self.policy['label']}, w_cost = {self.w_cost[0]:g}"),
            (len(self.w_cost) - 1, f"w_cost = {self.w_cost[-1]:g}"),
        ]
        names = [*self.models, *(text for _, text in ends)]
        cost = np.array(
            [m["cost_usd"] * QUERIES for m in self.models.values()] + [cost_w[i] for i, _ in ends]
        )
        quality = np.array(
            [m["quality"] for m in self.models.values()] + [self.policy["quality"][i] for i, _ in ends]
        )
        middle = int(len(curve) * 0.72)
        names.append("mix of single models")
        cost, quality = np.append(cost, curve[middle]), np.append(quality, height[middle])
        pixels = self._pixels(cost, quality)
        steps = np.linspace(0.0, 1.0, 17)[:, None, None]
        dial = self._pixels(cost_w, self.policy["quality"])
        joined = (dial[None, :-1] * (1 - steps) + dial[None, 1:] * steps).reshape(-1, 2)
        obstacles = np.concatenate([joined, self._pixels(curve, height)])
        places = place_labels(pixels, names, obstacles, width=PLANE_WIDTH, height=PLANE_HEIGHT, gap=9.0)
        colours = [INK] * len(self.models) + [BLUE] * len(ends) + [GREY]
        best = set(self.split["best_single_model_per_setting"])
        offsets = np.array([[place.dx, place.dy] for place in places])
        at_cost, at_quality = self._from_pixels(pixels + offsets)
        looks = [
            (place.align, colour, 600 if colour == BLUE or name in best else 400)
            for name, place, colour in zip(names, places, colours)
        ]
        layers = []
        for look in sorted(set(looks)):
            align, colour, weight = look
            rows = [i for i, other in enumerate(looks) if other == look]
            table = frame(cost=at_cost[rows], quality=at_quality[rows])
            table = table.with_columns(name=pl.Series([names[i] for i in rows]))
            text = alt.Chart(table).mark_text(
                align=align, baseline="middle", fontSize=11, color=colour, fontWeight=weight,
                fontStyle="italic" if colour == GREY else "normal",
            )  # fmt: skip
            layers.append(text.encode(**self._enc(), text="name:N"))
        return layers


def _headroom(split: Split, w_cost: Sequence[float]) -> Any:
    """Return reward beyond the best single model against the dial, of policy and oracle: what is left to win."""
    fixed = np.array(split["routers"][BEST_SINGLE]["rewards"])
    x = dial_axis(3)
    axis = alt.Axis(title="mean reward beyond the best single model", tickCount=6, format="+.2f")
    y = alt.Y("gain:Q", axis=axis)
    layers = [zero_line().encode(y=alt.Y("zero:Q", axis=axis))]
    at = len(w_cost) * 2 // 5
    labels = [("best single model", 0.0, VERMILLION, 13, len(w_cost) - 1, "right")]
    for name, text, colour, dash in (
        (ORACLE, "oracle", GREEN, [2, 2]),
        (POLICY, "this policy", BLUE, [1, 0]),
    ):
        gain = np.array(split["routers"][name]["rewards"]) - fixed
        line = alt.Chart(frame(w=w_cost, gain=gain)).mark_line(
            stroke=colour, strokeDash=dash, strokeWidth=2.2
        )
        layers.append(line.encode(x=x, y=y))
        labels.append((text, float(gain[at : at + 4].max()), colour, -12, at, "left"))
    for text, gain, colour, dy, index, align in labels:
        layers.append(
            alt.Chart(frame(w=[w_cost[index]], gain=[gain]))
            .mark_text(
                text=text,
                align=align,
                dx=4 if align == "left" else -4,
                dy=dy,
                color=colour,
                fontSize=11,
                fontWeight=600,
            )
            .encode(x=x, y=y)
        )
    title = alt.TitleParams("What is left to win", fontSize=12, offset=4)
    return alt.layer(*layers).properties(width=210, height=PLANE_HEIGHT, title=title)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 times the powers of ten inside the range."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [float(f"{m}e{d}") for d in decades for m in (1, 2, 5)]
    return [t for t in ticks if low <= t <= high]
