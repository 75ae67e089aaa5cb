"""May the policy replace the incumbent? The verdict on a full table, and its words for any evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import TradewindConfig
from pipeline.config.evaluate import LOGGED_INCUMBENT, VerdictConfig
from pipeline.incumbents import incumbent_of
from pipeline.routers import POLICY, Router, dial_probabilities
from policies import ope
from policies.bundle import RouterBundle
from policies.datasets import OutcomeMatrix
from policies.errors import InputError
from policies.preference import dial_grid

NO_TASK = "(no task)"
SHOWN_SETTINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Dial settings of the console's table; metrics and report have all."""

PLAIN = {
    "ship": "Yes. The policy is better than the incumbent, beyond what chance explains.",
    "do not ship": "No. The data rule out a gain worth having, or show a loss that is not tolerated.",
    "not enough data": "Not yet. The data neither show a gain nor rule one out.",
}


def thresholds_of(config: VerdictConfig) -> ope.VerdictThresholds:
    """Return the configured thresholds."""
    return ope.VerdictThresholds(**config.model_dump())


def segments_of(tasks: npt.NDArray[np.str_]) -> npt.NDArray[np.str_] | None:
    """Return each row's task, shape (n,), rows without one under a name of their own; None where none has one."""
    return np.where(tasks == "", NO_TASK, tasks) if (tasks != "").any() else None


def table_verdicts(
    bundle: RouterBundle, complete: Mapping[str, OutcomeMatrix], config: TradewindConfig, tau_usd: float
) -> dict[str, Any]:
    """Return ``incumbent`` and, for each split, the verdict on its completely observed prompts.

    Args:
        bundle: the candidate.
        complete: prompts that every model answered: ``train`` and the splits to judge.
        config: ``evaluate`` is read.
        tau_usd: cost scale in USD.

    Raises:
        InputError: an incumbent that a full table has not, see :func:`pipeline.incumbents.incumbent_of`.
    """
    name = config.evaluate.incumbent
    if name == LOGGED_INCUMBENT:
        raise InputError(
            "evaluate.incumbent=logged: a full table has no logging policy; allowed here: best_single, always:MODEL, "
            "the folder of a policy"
        )
    limits = thresholds_of(config.evaluate.verdict)
    incumbent = incumbent_of(name, bundle, complete["train"], tau_usd, limits.min_action_events)
    assert incumbent.policy is not None, "only the logging policy has none"
    routers = (
        Router(POLICY, bundle.policy.kind, bundle.policy, "policy"),
        Router("incumbent", incumbent.label, incumbent.policy, "reference"),
    )
    grid = dial_grid()
    splits = {}
    for split, data in complete.items():
        if split not in ("test", "ood") or len(data) == 0:
            continue
        ours, theirs = (dial_probabilities(router, data, grid) for router in routers)
        verdict = ope.judge_outcomes(
            ours, theirs, data.scores, data.costs_usd, w_cost=grid, tau_usd=tau_usd,
            segments=segments_of(data.tasks), thresholds=limits,
        )  # fmt: skip
        splits[split] = verdict.as_dict()
    return {"incumbent": incumbent.label, "splits": splits}


def verdict_lines(verdict: Mapping[str, Any], incumbent: str, unit: str) -> list[str]:
    """Return the verdict as a plain table, its reasons last.

    Args:
        verdict: of :meth:`policies.ope.Verdict.as_dict`.
        incumbent: its label.
        unit: what a row of evidence is: ``events`` or ``prompts``.
    """
    rows: list[tuple[str, ...]] = [
        ("policy minus incumbent", unit, "difference", "bounds", "telling apart", "")
    ]
    shown = [row for row in verdict["by_preference"] if _w(row) in SHOWN_SETTINGS]
    for row in (verdict["overall"], *shown, *verdict["by_segment"]):
        rows.append(comparison_cells(row))
    confidence = 1.0 - 2.0 * verdict["thresholds"]["alpha"]
    return [
        *aligned(rows),
        f"verdict against {incumbent} ({confidence:.0%} bounds): {str(verdict['decision']).upper()}",
        *(f"  - {reason}" for reason in verdict["reasons"]),
    ]


def comparison_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a comparison as text: label, events, difference, bounds, effective events, decision."""
    low, high = row["lower"], row["upper"]
    bounds = "unknown" if low is None or not np.isfinite(low) else f"{low:+.4f} .. {high:+.4f}"
    label = "mean over the dial" if row["label"] == "overall" else str(row["label"])
    return (
        label,
        f"{row['n_events']:,}",
        f"{row['difference']:+.4f}",
        bounds,
        f"{row['difference_ess']:,.0f}",
        str(row["decision"]),
    )


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows of cells as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def _w(row: Mapping[str, Any]) -> float:
    return float(str(row["label"]).removeprefix("w_cost="))
