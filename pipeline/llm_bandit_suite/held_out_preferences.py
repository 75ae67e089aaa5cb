"""Check 2, preferences that training never drew: does the policy decide there as well as one that drew them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.llm_bandit_suite.context import SuiteContext, llm_bandit
from pipeline.llm_bandit_suite.decisions import dial_choices
from pipeline.llm_bandit_suite.findings import Claim, Finding, Table
from pipeline.llm_bandit_suite.trainings import Trained, Training

NAME = "preferences"
EVERYWHERE, ELSEWHERE = "preferences-everywhere", "preferences-elsewhere"
Interval = tuple[float, float]


def remaining(whole: Interval, removed: Sequence[Interval]) -> list[Interval]:
    """Return what is left of an interval, in order."""
    low, high = whole
    left = []
    for a, b in sorted(removed):
        if a > low:
            left.append((low, a))
        low = max(low, b)
    return [*left, (low, high)] if low < high else left


def ratios(intervals: Sequence[Interval], step: float) -> npt.NDArray[np.float64]:
    """Return values of w = w_cost / w_quality over the intervals, both ends included, shape (m,)."""
    parts = [np.linspace(a, b, max(1, round((b - a) / step)) + 1) for a, b in intervals]
    return np.concatenate(parts)


def trainings(context: SuiteContext) -> list[Training]:
    """Return the two policies: preferences over the whole interval, and without the parts held out."""
    settings = context.settings.preferences
    left = remaining(settings.trained, settings.held_out)
    # Draws from the whole dial would let the held-out preferences in.
    return [
        context.training(name, candidates={"ratio_intervals": intervals, "simplex_share": 0.0})
        for name, intervals in ((EVERYWHERE, [settings.trained]), (ELSEWHERE, left))
    ]


def check(context: SuiteContext, trained: Mapping[str, Trained]) -> Finding:
    """Compare both policies' mean rewards on the preferences held out."""
    settings = context.settings.preferences
    w = ratios(settings.held_out, settings.step)
    w_cost = w / (1.0 + w)
    figures, rows, losses = {}, [], {}
    for split, bench in context.benches.items():
        by_policy = {
            name: bench.rewards(dial_choices(llm_bandit(trained[name]), bench.data, w_cost), w_cost)
            for name in (EVERYWHERE, ELSEWHERE)
        }
        losses[split] = loss(by_policy[EVERYWHERE], by_policy[ELSEWHERE])
        figures[split] = {name: values.tolist() for name, values in by_policy.items()} | {
            "loss": losses[split]
        }
        for a, b in settings.held_out:
            inside = (w >= a) & (w <= b)
            full, held = (by_policy[name][inside] for name in (EVERYWHERE, ELSEWHERE))
            rows.append(
                (
                    split,
                    f"{a:g} to {b:g}",
                    f"{full.mean():.4f}",
                    f"{held.mean():.4f}",
                    f"{loss(full, held):+.2%}",
                )
            )
    first = next(iter(losses))
    return Finding(
        NAME,
        "Preferences that training never drew",
        "Two trainings alike but for the preferences drawn; mean reward at w = w_cost / w_quality held out of "
        "one of them.",
        [
            Claim(
                f"mean reward on held-out preferences within {settings.goal_loss:.0%} of full training",
                f"loss {losses[first]:+.2%}"
                + "".join(f" ({s}: {v:+.2%})" for s, v in losses.items() if s != first),
                losses[first] <= settings.goal_loss,
            )
        ],
        [Table("Mean reward", ("split", "w held out", "full training", "held out", "loss"), rows)],
        {"w": w.tolist(), **figures},
    )


def loss(full: npt.NDArray[np.float64], held: npt.NDArray[np.float64]) -> float:
    """Return the share of the mean reward that is lost; negative where there is a gain."""
    return float((full.mean() - held.mean()) / abs(full.mean()))
