"""Error rates of the verdict and accuracy of the estimators on simulated logs with a known truth.

    python -m benchmarks.ope_verdict [--logs 100] [--events 8000] [--logging uniform] [--estimator-logs 50]

Prints one JSON line: per kind of candidate (true gain in mean reward over the dial, share of prompts where
it departs from the incumbent) the share of each decision, and the 95 % interval (Clopper and Pearson) of the
share that ships; per estimator the mean relative error against the truth and the coverage of its 95 %
interval; per interval the share of logs on which its lower bound passes 0. A candidate of gain 0 is the
hardest of those that are no better: the share of these that ship bounds that of the truly worse. The worlds
are simulated, a new one every few logs: see ope_world.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from benchmarks.ope_world import LOGGING, Log, World, draw_log, logging_probabilities, make_world, policy_pair
from policies import ope

CANDIDATES = (
    (0.0, 0.1), (0.0, 0.3), (0.0, 0.9), (-0.003, 0.3), (-0.01, 0.6), (-0.02, 0.9), (0.02, 0.6), (0.02, 0.9),
)  # fmt: skip
"""True gain in mean reward, share of prompts that may be decided otherwise."""

LOGS_PER_WORLD = 5


def outcomes(log: Log) -> ope.LoggedOutcomes:
    return ope.LoggedOutcomes(log.actions, log.propensities, log.scores, log.costs_usd)


def predict(world: World, log: Log) -> ope.OutcomePredictions:
    return ope.cross_fit_outcomes(
        world.embeddings[log.rows],
        log.actions,
        log.scores,
        log.costs_usd,
        log.rows,
        world.n_models,
        cost_cap_usd=world.tau_usd,
    )


def verdict_rates(
    n_logs: int, n_events: int, logging: str, seed: int, compare_intervals: bool = False
) -> dict[str, dict[str, Any]]:
    """Return per candidate the share of logs with each decision, and of lower bounds above 0 by kind of
    interval."""
    rng = np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for i in tqdm(range(n_logs), desc="verdicts", disable=None):
        if i % LOGS_PER_WORLD == 0:
            world = make_world(rng)
            probabilities = logging_probabilities(world, logging)
            pairs = {}
            for gap, share in CANDIDATES:
                try:
                    pairs[f"gain {gap:+g}, departs on {share:g}"] = policy_pair(world, gap, share, rng)
                except ValueError:  # this world has no candidate so much better
                    continue
        log = draw_log(world, probabilities, n_events, rng)
        predictions, events = predict(world, log), outcomes(log)
        for name, (incumbent, candidate, w_cost) in pairs.items():
            theirs, ours = incumbent[:, log.rows], candidate[:, log.rows]
            verdict = ope.judge(
                events,
                ours,
                theirs,
                predictions,
                w_cost=w_cost,
                tau_usd=world.tau_usd,
                segments=world.tasks[log.rows],
                groups=log.rows,
            )
            counts[name]["logs"] += 1
            counts[name][str(verdict.decision)] += 1
            counts[name]["bound > 0"] += verdict.overall.lower > 0.0
            if compare_intervals:
                difference = np.mean(
                    [
                        ope.paired_contributions(events, c, t, predictions, w, world.tau_usd)
                        for c, t, w in zip(ours, theirs, w_cost)
                    ],
                    axis=0,
                )
                bootstrap = ope.studentised_bootstrap_interval(difference, 0.9, log.rows, n_resamples=200)
                counts[name]["studentised bound > 0"] += bootstrap.low > 0.0
                widest = 4.0 * (
                    1.0 + 1.0 / log.propensities.min()
                )  # a prompt drawn a few times counts as one unit
                bernstein = ope.empirical_bernstein_interval(difference, widest * 2.0, 0.9, log.rows)
                counts[name]["Bernstein bound > 0"] += bernstein.low > 0.0
    return {
        name: {"logs": c["logs"]}
        | {key: round(c[key] / c["logs"], 4) for key in c if key != "logs"}
        | {"ship_95": _share_interval(c[str(ope.Decision.SHIP)], c["logs"])}
        for name, c in counts.items()
    }


def _share_interval(hits: int, trials: int) -> list[float]:
    bounds = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
    return [round(float(bounds.low), 4), round(float(bounds.high), 4)]


def estimator_accuracy(
    n_logs: int, n_events: int, logging: str, seed: int, w_cost: float = 0.3
) -> dict[str, dict[str, float]]:
    """Return per estimator mean relative error and coverage of the 95 % interval, for a policy that follows
    noisy guesses."""
    rng = np.random.default_rng(seed)
    world = make_world(rng)
    probabilities = logging_probabilities(world, logging)
    _, candidate, grid = policy_pair(world, 0.0, 0.9, rng)
    policy = candidate[int(np.abs(grid - w_cost).argmin())]
    truth = float((policy * world.expected_rewards(w_cost)).sum(axis=1).mean())
    errors, covered = defaultdict(list), defaultdict(list)
    for _ in tqdm(range(n_logs), desc="estimators", disable=None):
        log = draw_log(world, probabilities, n_events, rng)
        view = outcomes(log).at_preference(w_cost, world.tau_usd)
        r_hat = predict(world, log).rewards(w_cost, world.tau_usd)
        for name, estimate in ope.all_estimates(view, policy[log.rows], r_hat).items():
            low, high = ope.normal_interval(estimate.contributions, 0.95, log.rows)
            errors[name].append(abs(estimate.value - truth) / abs(truth))
            covered[name].append(low <= truth <= high)
    return {
        name: {
            "relative_error": round(float(np.mean(errors[name])), 4),
            "coverage_95": float(np.mean(covered[name])),
        }
        for name in errors
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--events", type=int, default=8000)
    parser.add_argument("--logging", choices=LOGGING, default="uniform")
    parser.add_argument("--estimator-logs", type=int, default=50)
    parser.add_argument("--intervals", action="store_true", help="compare other intervals (slower)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    result = {
        "benchmark": "ope_verdict",
        "events": args.events,
        "logging": args.logging,
        "verdict": verdict_rates(args.logs, args.events, args.logging, args.seed, args.intervals)
        if args.logs
        else {},
        "estimators": estimator_accuracy(args.estimator_logs, args.events, args.logging, args.seed + 1)
        if args.estimator_logs
        else {},
        "wall_s": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
