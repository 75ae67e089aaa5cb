"""One router's figures on one set of prompts, with bootstrap intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from policies.metrics import dial, hull, pareto, routing
from policies.metrics.tables import (
    Float64Array,
    FloatArray,
    IntArray,
    checked_dial,
    checked_outcomes,
    checked_probabilities,
)

DEFAULT_RESAMPLES = 500
_CHUNK = 64  # resamples held in memory at once: 64 x 10,000 prompts of float64 are 5 MB


@dataclass(frozen=True)
class RouterScore:
    """Figures of one router; rewards in [-1, 1], quality in [0, 1], costs in USD per call.

    ``intervals`` maps "mean_reward", "aiq", "gap_closed", "quality" and "cost_usd" to (low, high); the last
    two are over the mean of the dial. It is empty without resamples; "gap_closed" is NaN where there is no
    gap to close. ``perf_gain`` and ``cost_save`` are None where no setting was chosen on validation.
    """

    n_prompts: int
    w_cost: tuple[float, ...]
    rewards: tuple[float, ...]
    quality: tuple[float, ...]
    cost_usd: tuple[float, ...]
    mean_reward: float
    best_single_mean_reward: float
    oracle_mean_reward: float
    regret_to_oracle: float
    gain_over_best_single: float
    gap_closed: float
    aiq: float
    mix_line_aiq: float
    aiq_over_mix_line: float
    hypervolume: float
    perf_gain: float | None
    cost_save: float | None
    max_cost_rise: float
    dead_dial_share: float
    action_shares: tuple[tuple[float, ...], ...]
    action_entropy: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts and numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ChosenSettings:
    """Dial settings (indices) chosen on validation prompts, and the best single model by training quality."""

    best_single_model: int
    perf_gain_setting: int
    cost_save_setting: int | None


def choose_settings(
    probabilities: FloatArray, scores: FloatArray, costs_usd: FloatArray, best_single_model: int
) -> ChosenSettings:
    """Choose the settings of PerfGain and CostSave on validation prompts.

    Args:
        probabilities: shape (S, n, K), the router on the validation prompts.
        scores: shape (n, K), their outcomes.
        costs_usd: shape (n, K), USD per call.
        best_single_model: index of the model with the best mean score in training.
    """
    points = routing.dial_points(probabilities, scores, costs_usd)
    bar = float(np.mean(np.asarray(scores)[:, best_single_model]))
    return ChosenSettings(
        best_single_model=best_single_model,
        perf_gain_setting=dial.perf_gain_setting(points.quality),
        cost_save_setting=dial.cost_save_setting(points.quality, points.cost_usd, bar),
    )


def score_router(
    probabilities: FloatArray,
    scores: FloatArray,
    costs_usd: FloatArray,
    *,
    w_cost: FloatArray,
    tau_usd: float,
    best_single: IntArray,
    settings: ChosenSettings | None = None,
    n_resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> RouterScore:
    """Return every figure of one router on one set of prompts.

    Args:
        probabilities: shape (S, n, K).
        scores: shape (n, K), in [0, 1], no missing outcome.
        costs_usd: shape (n, K), USD per call.
        w_cost: shape (S,), rising.
        tau_usd: cost scale of the reward in USD, from the training costs.
        best_single: shape (S,), best fixed model per setting, from `routing.best_single_choices` on training
            data.
        settings: choices made on validation for PerfGain and CostSave; None leaves both out.
        n_resamples: bootstrap resamples for ``intervals``; 0 leaves them out.
        confidence: of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: malformed arrays or missing outcomes.
    """
    q, c = checked_outcomes(scores, costs_usd)
    p = checked_probabilities(probabilities, *q.shape)
    w = checked_dial(w_cost, p.shape[0])
    points = routing.dial_points(p, q, c)
    rewards = routing.mean_rewards(p, q, c, w, tau_usd)
    best = routing.single_model_rewards(best_single, q, c, w, tau_usd)
    oracle = routing.oracle_rewards(q, c, w, tau_usd)
    single_c, single_q = c.mean(axis=0), q.mean(axis=0)
    dearest = float(single_c.max())
    area = hull.aiq(points.cost_usd, points.quality, single_c, single_q)
    mix_area = hull.mix_line_aiq(single_c, single_q)
    shares = routing.action_shares(p)
    gain = saving = None
    if settings is not None:
        model = settings.best_single_model
        gain = dial.perf_gain(points.quality, float(single_q[model]), settings.perf_gain_setting)
        saving = dial.cost_save(points.cost_usd, float(single_c[model]), settings.cost_save_setting)
    intervals = (
        bootstrap_intervals(
            p, q, c, w_cost=w, tau_usd=tau_usd, best_single=best_single,
            n_resamples=n_resamples, confidence=confidence, seed=seed,
        )
        if n_resamples
        else {}
    )  # fmt: skip
    return RouterScore(
        n_prompts=q.shape[0],
        w_cost=_floats(w),
        rewards=_floats(rewards),
        quality=_floats(points.quality),
        cost_usd=_floats(points.cost_usd),
        mean_reward=float(rewards.mean()),
        best_single_mean_reward=float(best.mean()),
        oracle_mean_reward=float(oracle.mean()),
        regret_to_oracle=routing.regret(rewards, oracle),
        gain_over_best_single=-routing.regret(rewards, best),
        gap_closed=routing.gap_closed(float(rewards.mean()), float(best.mean()), float(oracle.mean())),
        aiq=area,
        mix_line_aiq=mix_area,
        aiq_over_mix_line=area / mix_area if mix_area > 0.0 else float("nan"),
        hypervolume=pareto.hypervolume(points.cost_usd, points.quality, dearest)
        if dearest > 0.0
        else float("nan"),
        perf_gain=gain,
        cost_save=saving,
        max_cost_rise=dial.max_cost_rise(points.cost_usd, dearest) if dearest > 0.0 else 0.0,
        dead_dial_share=dial.dead_dial_share(p),
        action_shares=tuple(_floats(row) for row in shares),
        action_entropy=float(routing.action_entropy(shares.mean(axis=0))),
        intervals=intervals,
    )


def bootstrap_intervals(
    probabilities: FloatArray,
    scores: FloatArray,
    costs_usd: FloatArray,
    *,
    w_cost: FloatArray,
    tau_usd: float,
    best_single: IntArray,
    n_resamples: int = DEFAULT_RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals over prompts (multinomial weights) of the headline figures.

    Router, oracle, fixed models and the single models' cost range are all recomputed on each resample, so the
    interval of gap closed and of AIQ carries the noise of both sides. Training-side choices (``best_single``,
    ``tau_usd``, the router itself) are held fixed. Arguments as in `score_router`; O(resamples x n x (S +
    K)).
    """
    q, c = checked_outcomes(scores, costs_usd)
    p = checked_probabilities(probabilities, *q.shape)
    w = checked_dial(w_cost, p.shape[0])
    if n_resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"n_resamples={n_resamples}, confidence={confidence}: must be >= 1 and inside (0, 1)"
        )
    quality = np.einsum("snk,nk->ns", p, q)
    cost = np.einsum("snk,nk->ns", p, c)
    n = q.shape[0]
    router, best, oracle = np.zeros(n), np.zeros(n), np.zeros(n)
    for s, (w_s, model) in enumerate(zip(w, np.asarray(best_single))):
        table = routing.rewards_at(q, c, w_s, tau_usd)
        router += (p[s] * table).sum(axis=1) / w.size
        best += table[:, model] / w.size
        oracle += table.max(axis=1) / w.size
    columns = np.concatenate([np.stack([router, best, oracle], axis=1), quality, cost, q, c], axis=1)
    means = np.concatenate(list(_resampled_means(columns, n_resamples, np.random.default_rng(seed))))
    cuts = np.cumsum([3, w.size, w.size, q.shape[1]])
    three, quality_b, cost_b, single_q, single_c = np.split(means, cuts, axis=1)
    draws = {
        "mean_reward": three[:, 0],
        "quality": quality_b.mean(axis=1),
        "cost_usd": cost_b.mean(axis=1),
        "aiq": np.array([hull.aiq(*row) for row in zip(cost_b, quality_b, single_c, single_q)]),
        "gap_closed": np.array([routing.gap_closed(*row) for row in three.tolist()]),
    }
    tail = (1.0 - confidence) / 2.0
    return {
        name: (float(np.quantile(d, tail)), float(np.quantile(d, 1.0 - tail))) for name, d in draws.items()
    }


def _resampled_means(columns: Float64Array, n_resamples: int, rng: np.random.Generator) -> list[Float64Array]:
    n = columns.shape[0]
    chunks = []
    for start in range(0, n_resamples, _CHUNK):
        size = min(_CHUNK, n_resamples - start)
        # A multinomial count is the histogram of uniform draws; counting draws is much faster than
        # numpy's multinomial, which walks through n conditional binomials.
        counts = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(size)])
        chunks.append(counts @ columns / n)
    return chunks


def _floats(values: Float64Array) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
