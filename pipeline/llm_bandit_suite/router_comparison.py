"""Check 5, other routers on the same splits: what does the best single model's quality cost?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.baselines import LABELS
from pipeline.llm_bandit_suite.context import FULL, SuiteContext
from pipeline.llm_bandit_suite.findings import Claim, Finding, Table
from pipeline.llm_bandit_suite.trainings import Trained, Training
from pipeline.routers import ORACLE, POLICY, Router
from pipeline.scoring import Yardstick, chosen_settings, score_split
from policies.constants import BestSinglePolicy
from policies.metrics import upper_hull
from policies.preference import dial_grid

NAME = "routers"
NAMES = {"barp": "BaRP", "outcome_model": "outcome model", **LABELS}


def trainings(context: SuiteContext) -> list[Training]:
    """Return LLM Bandit and every router it is compared with."""
    return [context.full(), *(context.other(name) for name in context.settings.routers.names)]


def cost_at_quality(
    costs: npt.NDArray[np.float64], qualities: npt.NDArray[np.float64], quality: float
) -> float | None:
    """Return the least mean cost of coin flips between a router's dial settings that reach ``quality``, else None.

    Args:
        costs: shape (S,), mean cost of each setting.
        qualities: shape (S,), mean quality.
        quality: to be reached.
    """
    hull = upper_hull(costs, qualities)
    if hull[-1, 1] < quality:
        return None
    # Quality rises strictly along the hull, so it can be read the other way round.
    return float(np.interp(quality, hull[:, 1], hull[:, 0]))


def check(context: SuiteContext, trained: Mapping[str, Trained]) -> Finding:
    """Score all routers on the same prompts."""
    settings = context.settings.routers
    training = context.train.complete()
    yardstick = Yardstick.fit(training, dial_grid(), context.tau_usd, n_resamples=0, seed=context.seed)
    single = BestSinglePolicy.fit(training.pool.models, training.scores, training.costs_usd, context.tau_usd)
    routers = [
        Router(POLICY, "LLM Bandit", trained[FULL].policy, "policy"),
        *(Router(name, NAMES[name], trained[f"router-{name}"].policy, "baseline") for name in settings.names),
        Router("best_single", "best single per preference", single, "reference"),
    ]
    chosen = chosen_settings(routers, context.validation.complete(), yardstick)
    best = training.pool.models[yardstick.best_model]
    figures: dict[str, Any] = {"best_single_model": best}
    tables, savings = [], {}
    for split, bench in context.benches.items():
        scored = score_split(routers, bench.data, yardstick, chosen)
        fixed = scored["single_models"][best]
        found = {name: _row(row, fixed) for name, row in scored["routers"].items()}
        figures[split] = {"best_single": fixed, "mix_line_aiq": scored["mix_line"]["aiq"], "routers": found}
        savings[split] = (
            found[POLICY]["saving"],
            found[POLICY]["saving_on_hull"],
            found[ORACLE]["saving_on_hull"],
        )
        rows = [
            _cells(scored["routers"][name]["label"], body, scored["mix_line"]["aiq"])
            for name, body in found.items()
        ]
        tables.append(
            Table(
                f"Split {split}; {best} alone: quality {fixed['quality']:.4f} at "
                f"{1000 * fixed['cost_usd']:.3f} USD per 1,000",
                ("router", "mean reward", "gap closed", "AIQ / mix line", "saving", "saving, on the hull"),
                rows,
            )
        )
    first = next(iter(savings))
    saving, on_hull, oracle = savings[first]
    allowed = oracle is not None and oracle >= settings.goal_saving
    # The setting that validation chose may lie below that quality here: the hull says what equal quality costs.
    reached = all(value is not None and value >= settings.goal_saving for value in (saving, on_hull))
    return Finding(
        NAME,
        "Against other routers",
        "All trained on the same prompts with their default settings. Saving: 1 - cost / cost of the best single "
        "model, at the cheapest setting that reached its quality on validation prompts; 'on the hull' reads the cost "
        "at exactly equal quality off the reported prompts' own curve, which is optimistic, and where the curve stays "
        "below there is none. The goal asks both of LLM Bandit: the setting may have cost some quality here.",
        [
            Claim(
                f"cost at the best single model's quality at least {settings.goal_saving:.0%} below its own, where the "
                "oracle allows it",
                f"{_chosen(figures[first]['routers'][POLICY])} by validation, {_percent(on_hull)} on the hull; "
                f"oracle {_percent(oracle)}",
                reached if allowed else None,
            )
        ],
        tables,
        figures,
    )


def _row(row: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    body = {key: row.get(key) for key in ("mean_reward", "gap_closed", "aiq", "perf_gain")}
    body["saving"] = body["saving_on_hull"] = body["quality_change"] = None
    if "quality" not in row:
        return body
    cost = cost_at_quality(np.array(row["cost_usd"]), np.array(row["quality"]), fixed["quality"])
    body["saving_on_hull"] = None if cost is None else 1.0 - cost / fixed["cost_usd"]
    setting = (row.get("chosen") or {}).get("cost_save")
    if setting is not None:
        body["saving"] = 1.0 - setting["cost_usd"] / fixed["cost_usd"]
        body["quality_change"] = setting["quality"] - fixed["quality"]
    return body


def _cells(label: str, body: Mapping[str, Any], mix: float) -> tuple[str, ...]:
    return (
        label,
        f"{body['mean_reward']:.4f}",
        f"{body['gap_closed']:+.3f}",
        f"{body['aiq'] / mix:.3f}",
        _chosen(body),
        _percent(body["saving_on_hull"]),
    )


def _percent(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.1%}"


def _chosen(body: Mapping[str, Any]) -> str:
    """Return the saving with the quality that was had at that setting, which is not quite the one asked for."""
    if body["saving"] is None:
        return _percent(None)
    return f"{_percent(body['saving'])} at quality {body['quality_change']:+.4f}"
