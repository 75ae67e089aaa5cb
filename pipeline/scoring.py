"""From routers and completely observed prompts to the figures of ``metrics.json``, without touching files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.routers import BEST_SINGLE, POLICY, Router, dial_probabilities, oracle_router
from policies.datasets import OutcomeMatrix
from policies.metrics import (
    ChosenSettings,
    best_single_choices,
    choose_settings,
    mix_line,
    mix_line_aiq,
    one_hot,
    rewards_at,
    score_router,
)

FloatArray = npt.NDArray[np.float64]

MIN_PROMPTS_FOR_INTERVAL = 10
"""Below this the bootstrap sees too few distinct prompts: its interval would look far too sure."""

COLLAPSED_SHARE = 0.95
"""A router that sends more than this share of all decisions over the dial to one model has collapsed."""

PROMPT_BLIND_SHARE = 0.995
"""At a setting where one model takes this share, the prompt plays no role in the decision."""

DEAD_DIAL_SHARE = 0.9
"""A dial of which this share of the steps changes nothing is dead."""

COST_RISE_TOLERANCE = 0.01
"""Rises of mean cost along the dial above this share of the dearest model's cost are flagged."""


SINGLE_MODEL_FIGURES = (
    "label",
    "role",
    "rewards",
    "mean_reward",
    "gain_over_best_single",
    "gap_closed",
    "aiq",
)


@dataclass(frozen=True)
class Yardstick:
    """What every figure is measured with, fixed on training and validation prompts.

    Attributes:
        w_cost: shape (n_settings,), the dial.
        tau_usd: cost scale in USD.
        best_single: shape (n_settings,), the best fixed model per setting, on training prompts.
        best_model: the model with the best mean training score.
        n_resamples: bootstrap resamples, 0 for no intervals.
        seed: of the resampling.
    """

    w_cost: FloatArray
    tau_usd: float
    best_single: npt.NDArray[np.int64]
    best_model: int
    n_resamples: int
    seed: int

    @classmethod
    def fit(
        cls, training: OutcomeMatrix, w_cost: FloatArray, tau_usd: float, *, n_resamples: int, seed: int
    ) -> Yardstick:
        """Fit to completely observed training prompts."""
        best = best_single_choices(training.scores, training.costs_usd, w_cost, tau_usd)
        return cls(w_cost, tau_usd, best, int(training.scores.mean(axis=0).argmax()), n_resamples, seed)


def chosen_settings(
    routers: Sequence[Router], validation: OutcomeMatrix | None, yardstick: Yardstick
) -> dict[str, ChosenSettings]:
    """Return each router's dial settings of PerfGain and CostSave, chosen on validation prompts.

    Without validation prompts the result is empty: choosing on the prompts that are reported is optimistic.
    """
    if validation is None or len(validation) == 0:
        return {}
    return {
        router.name: choose_settings(
            dial_probabilities(router, validation, yardstick.w_cost),
            validation.scores,
            validation.costs_usd,
            yardstick.best_model,
        )
        for router in routers
        if router.role != "single"
    }


def score_split(
    routers: Sequence[Router],
    data: OutcomeMatrix,
    yardstick: Yardstick,
    settings: Mapping[str, ChosenSettings],
) -> dict[str, Any]:
    """Return the figures of every router on one set of completely observed prompts.

    Args:
        routers: what is compared; the oracle of these prompts is added.
        data: n prompts, no missing outcome.
        yardstick: fixed on training data.
        settings: from :func:`chosen_settings`.
    """
    q, c = data.scores, data.costs_usd
    q1, c1 = q.mean(axis=0), c.mean(axis=0)
    # Both ratios are undefined against a free or a never-correct model.
    comparable = q1[yardstick.best_model] > 0.0 and c1[yardstick.best_model] > 0.0
    fixed = one_hot(np.repeat(yardstick.best_single[:, None], len(data), axis=1), len(data.pool.models))
    rows: dict[str, Any] = {}
    rewards: dict[str, FloatArray] = {}
    for router in [*routers, oracle_router(data, yardstick.tau_usd)]:
        # The best fixed model is decided on the float64 dial: a tie must not hang on float32 preferences.
        decided = fixed if router.name == BEST_SINGLE else dial_probabilities(router, data, yardstick.w_cost)
        score = score_router(
            decided, q, c, w_cost=yardstick.w_cost, tau_usd=yardstick.tau_usd,
            best_single=yardstick.best_single, settings=settings.get(router.name) if comparable else None,
            n_resamples=yardstick.n_resamples if router.role in ("policy", "baseline", "reference") else 0,
            seed=yardstick.seed,
        )  # fmt: skip
        body = score.as_dict()
        for repeated in (
            "n_prompts",
            "w_cost",
            "mix_line_aiq",
            "best_single_mean_reward",
            "oracle_mean_reward",
        ):
            del body[repeated]
        rewards[router.name] = _prompt_rewards(decided, q, c, yardstick)
        rows[router.name] = {"label": router.label, "role": router.role, **body}
        if router.role == "single":
            # Its dial does nothing: ``single_models`` holds its quality and cost.
            rows[router.name] = {k: rows[router.name][k] for k in SINGLE_MODEL_FIGURES}
        else:
            rows[router.name] |= _dial_intervals(decided, q, c, yardstick)
            rows[router.name]["chosen"] = _chosen(settings.get(router.name), body, yardstick)
        if router.role in ("policy", "baseline"):
            rows[router.name]["flags"] = flags(decided, body)
            rows[router.name] |= _gains(decided, fixed, q, c, yardstick)
            gain = rewards[router.name] - _prompt_rewards(fixed, q, c, yardstick)
            rows[router.name]["intervals"]["gain_over_best_single"] = _interval(gain, yardstick)
    best_q, best_c = mean_intervals(q, yardstick), mean_intervals(c, yardstick)
    return {
        "n_prompts": len(data),
        "mix_line": {"aiq": mix_line_aiq(c1, q1), "points": mix_line(c1, q1).tolist()},
        "best_single_model_per_setting": [data.pool.models[m] for m in yardstick.best_single],
        "single_models": {
            m: {
                "quality": float(q1[j]),
                "cost_usd": float(c1[j]),
                "quality_interval": best_q[j],
                "cost_usd_interval": best_c[j],
            }
            for j, m in enumerate(data.pool.models)
        },
        "routers": rows,
        "tasks": task_gains(data, rewards, yardstick),
    }


def task_gains(
    data: OutcomeMatrix, rewards: Mapping[str, FloatArray], yardstick: Yardstick
) -> dict[str, dict[str, Any]]:
    """Return per task what the policy earns beyond the best single model per preference.

    Args:
        data: n prompts with their tasks; prompts without one are reported as "(no task)".
        rewards: per router the reward of each prompt averaged over the dial, shape (n,); needs ``policy``
            and ``best_single``.
        yardstick: number of resamples and seed.
    """
    tasks = np.where(data.tasks == "", "(no task)", data.tasks)
    result = {}
    for task in np.unique(tasks):
        rows = tasks == task
        gain = rewards[POLICY][rows] - rewards[BEST_SINGLE][rows]
        result[str(task)] = {
            "n_prompts": int(rows.sum()),
            "gain_over_best_single": float(gain.mean()),
            "gain_interval": _interval(gain, yardstick),
            "mean_reward": {
                name: float(values[rows].mean())
                for name, values in rewards.items()
                if not name.startswith("always:")
            },
        }
    return result


def flags(probabilities: FloatArray, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signs of a router that has not learned to use the prompt or the dial.

    Args:
        probabilities: shape (n_settings, n, K).
        body: the router's figures (``max_cost_rise``, ``dead_dial_share``).
    """
    shares = probabilities.mean(axis=1)
    blind = shares.max(axis=1) >= PROMPT_BLIND_SHARE
    return {
        "collapsed": bool(shares.mean(axis=0).max() > COLLAPSED_SHARE),
        "prompt_blind_share_of_dial": float(blind.mean()),
        "prompt_blind": bool(blind.all()),
        "dead_dial": bool(body["dead_dial_share"] >= DEAD_DIAL_SHARE),
        "cost_rises": bool(body["max_cost_rise"] > COST_RISE_TOLERANCE),
        "cost_monotone": bool(body["max_cost_rise"] == 0.0),
    }


def mean_intervals(columns: FloatArray, yardstick: Yardstick) -> list[list[float] | None]:
    """Return 95 % percentile bootstrap intervals of column means over prompts, one per column.

    None where fewer than ``MIN_PROMPTS_FOR_INTERVAL`` prompts (or no resamples) are there to resample.

    Args:
        columns: shape (n, J).
        yardstick: number of resamples and seed; the same seed resamples the same prompts, so that intervals
            of routers on one split are paired.
    """
    n = len(columns)
    if n < MIN_PROMPTS_FOR_INTERVAL or yardstick.n_resamples == 0:
        return [None] * columns.shape[1]
    rng = np.random.default_rng(yardstick.seed)
    means = np.empty((yardstick.n_resamples, columns.shape[1]))
    for draw in range(yardstick.n_resamples):
        counts = np.bincount(rng.integers(n, size=n), minlength=n)
        means[draw] = counts @ columns / n
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return [[float(a), float(b)] for a, b in zip(low, high)]


def _interval(values: FloatArray, yardstick: Yardstick) -> list[float] | None:
    return mean_intervals(values[:, None], yardstick)[0]


def _prompt_rewards(decided: FloatArray, q: FloatArray, c: FloatArray, yardstick: Yardstick) -> FloatArray:
    total = np.zeros(len(q))
    for p, w in zip(decided, yardstick.w_cost):
        total += (p * rewards_at(q, c, float(w), yardstick.tau_usd)).sum(axis=1)
    return total / len(yardstick.w_cost)


def _dial_intervals(
    decided: FloatArray, q: FloatArray, c: FloatArray, yardstick: Yardstick
) -> dict[str, list[list[float] | None]]:
    quality = np.einsum("snk,nk->ns", decided, q)
    cost = np.einsum("snk,nk->ns", decided, c)
    both = mean_intervals(np.concatenate([quality, cost], axis=1), yardstick)
    return {"quality_intervals": both[: len(decided)], "cost_usd_intervals": both[len(decided) :]}


def _gains(
    decided: FloatArray, fixed: FloatArray, q: FloatArray, c: FloatArray, yardstick: Yardstick
) -> dict[str, Any]:
    """Return the gain over the best single model at each setting of the dial, with intervals."""
    columns = [
        ((p - p0) * rewards_at(q, c, float(w), yardstick.tau_usd)).sum(axis=1)
        for p, p0, w in zip(decided, fixed, yardstick.w_cost)
    ]
    gains = np.stack(columns, axis=1)
    return {"gains": gains.mean(axis=0).tolist(), "gain_intervals": mean_intervals(gains, yardstick)}


def _chosen(
    settings: ChosenSettings | None, body: Mapping[str, Any], yardstick: Yardstick
) -> dict[str, Any] | None:
    """Return what the settings chosen on validation gave here."""
    if settings is None:
        return None

    def at(setting: int | None) -> dict[str, float] | None:
        if setting is None:
            return None
        return {
            "w_cost": float(yardstick.w_cost[setting]),
            "quality": body["quality"][setting],
            "cost_usd": body["cost_usd"][setting],
        }

    return {"perf_gain": at(settings.perf_gain_setting), "cost_save": at(settings.cost_save_setting)}
