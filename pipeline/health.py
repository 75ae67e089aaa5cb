"""Signs that learning went wrong: each with a state and the number that decides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.scoring import COLLAPSED_SHARE, COST_RISE_TOLERANCE, DEAD_DIAL_SHARE, PROMPT_BLIND_SHARE
from policies.datasets import LoggedFeedback, OutcomeMatrix

State = Literal["ok", "look", "alarm"]
Check = dict[str, Any]

STUCK_SHARE = (0.95, 0.99)
"""Shares of training scores at one value from which to look, and to raise the alarm."""

NO_SIGNAL_SHARE = (0.8, 0.95)
"""Shares of training prompts on which every model scores the same: routing them can only save cost."""

LARGEST_SHARE = (0.8, COLLAPSED_SHARE)
NEVER_CALLED_SHARE = (0.5, 0.95)
CALLED = 0.001
"""A model with a smaller share of all calls over the dial counts as never called."""

BLIND_SHARE = (0.5, 1.0)
DEAD_SHARE = (0.75, DEAD_DIAL_SHARE)
RISE = (1e-9, COST_RISE_TOLERANCE)
BELOW_FLOOR_SHARE = (0.001, 0.05)
CERTAIN_SHARE = (0.5, 0.9)
CERTAIN = 0.99
"""A logged propensity from which on the logging policy explores next to nothing."""


def checks(
    training: OutcomeMatrix,
    log: LoggedFeedback | None,
    policy: Mapping[str, Any],
    *,
    propensity_floor: float,
    same_rows: bool | None = None,
) -> list[Check]:
    """Return the ``health`` of ``metrics.json``.

    Args:
        training: completely observed training prompts.
        log: the events that were learned from; None where none was.
        policy: the policy's figures on the main split.
        propensity_floor: propensities below it are counted.
        same_rows: whether the policy was trained on the run's rows of today; None where that is not known.
    """
    found = _rewards(training) if log is None else _logged_rewards(log)
    if same_rows is not None:
        found.append(
            _check(
                "other_training", float(not same_rows), (0.5, 0.5),
                "Trained on other rows than this run's training split has now: held-out prompts may be known",
            )
        )  # fmt: skip
    if log is not None:
        found += _propensities(log, propensity_floor)
    shares = np.array(policy["action_shares"]).mean(axis=0)
    top = int(shares.argmax())
    unused = shares <= CALLED
    blind = np.mean(np.array(policy["action_shares"]).max(axis=1) >= PROMPT_BLIND_SHARE)
    names = training.pool.models
    idle = ", ".join(name for name, off in zip(names, unused) if off)
    found += [
        _check("one_arm", float(shares[top]), LARGEST_SHARE, f"Largest share of calls over the dial ({names[top]})"),
        _check(
            "coverage", float(unused.mean()), NEVER_CALLED_SHARE,
            f"Models that are never called: {int(unused.sum())} of {len(names)}" + (f" ({idle})" if idle else ""),
        ),
        _check("prompt_blind", float(blind), BLIND_SHARE, "Dial settings at which every prompt gets the same model"),
    ]  # fmt: skip
    if policy["dead_dial_share"] is not None:
        found.append(
            _check(
                "dead_dial",
                policy["dead_dial_share"],
                DEAD_SHARE,
                "Steps of the dial that change no decision",
            )
        )
    found.append(
        _check(
            "cost_rises", policy["max_cost_rise"], RISE,
            "Largest rise of mean cost on a step of the dial towards cost, of the dearest model's mean cost",
        )
    )  # fmt: skip
    return found


def _rewards(training: OutcomeMatrix) -> list[Check]:
    same = (training.scores == training.scores[:, :1]).all(axis=1).mean()
    return [
        _stuck(training.scores.ravel()),
        _check(
            "no_signal", float(same), NO_SIGNAL_SHARE, "Training prompts on which all models score the same"
        ),
    ]


def _logged_rewards(log: LoggedFeedback) -> list[Check]:
    observed = log.scores[np.isfinite(log.scores)]
    counts = np.bincount(log.actions, minlength=len(log.pool.models))
    never = counts == 0
    idle = ", ".join(name for name, off in zip(log.pool.models, never) if off)
    text = f"Models that the log never calls: {int(never.sum())} of {len(counts)}"
    return [
        *([_stuck(observed)] if len(observed) else []),
        # What was never tried cannot be learned: a single such model is worth a look.
        _check(
            "log_coverage",
            float(never.mean()),
            (1e-9, NEVER_CALLED_SHARE[0]),
            text + (f" ({idle})" * bool(idle)),
        ),
    ]


def _stuck(scores: npt.NDArray[np.float64]) -> Check:
    values, counts = np.unique(scores, return_counts=True)
    share = float(counts.max() / counts.sum())
    text = f"Training scores at one value ({values[counts.argmax()]:g})"
    return _check("rewards_stuck", share, STUCK_SHARE, text)


def _propensities(log: LoggedFeedback, floor: float) -> list[Check]:
    below = float((log.propensities < floor).mean())
    text = f"Logged propensities below {floor:g} (smallest: {log.propensities.min():.2g})"
    certain = float((log.propensities >= CERTAIN).mean())
    return [
        _check("propensity_floor", below, BELOW_FLOOR_SHARE, text),
        _check(
            "propensities_collapsed", certain, CERTAIN_SHARE, f"Logged propensities of {CERTAIN:g} or more"
        ),
    ]


def _check(name: str, value: float, bounds: Sequence[float], text: str) -> Check:
    """Return a check that looks from the first bound on and is an alarm from the second."""
    look, alarm = bounds
    state: State = "alarm" if value >= alarm else "look" if value >= look else "ok"
    return {"name": name, "state": state, "value": value, "look": look, "alarm": alarm, "text": text}
