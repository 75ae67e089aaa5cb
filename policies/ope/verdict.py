"""May this candidate replace the incumbent? `ship`, `do not ship` or `not enough data`, from a feedback log
alone.

The evidence is the paired difference of doubly robust contributions: on every event, the candidate's minus
the incumbent's. Events on which the two policies agree contribute exactly 0, so a small change is measured
far more precisely than either policy's own value. The decisive figure is the mean over the dial; a gain
there does not ship when some preference or task segment is clearly worse than tolerated.

The log must not have trained the candidate: a policy is flattered by the events that chose it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from policies.ope.diagnostics import effective_sample_size
from policies.ope.evidence import Evidence, evidence_of_log, evidence_of_outcomes
from policies.ope.intervals import (
    Interval,
    empirical_bernstein_interval,
    moments,
    normal_interval,
    studentised_bootstrap_interval,
)
from policies.ope.logged import Float64Array, FloatArray, LoggedOutcomes
from policies.ope.outcome_regression import OutcomePredictions

Bound = Literal["normal", "studentised_bootstrap", "empirical_bernstein"]


class Decision(StrEnum):
    """The three answers of a verdict."""

    SHIP = "ship"
    DO_NOT_SHIP = "do not ship"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True)
class VerdictThresholds:
    """When a difference counts.

    Attributes:
        alpha: one-sided error: the share of candidates exactly ``min_gain`` better that may ship; worse ones
            ship less often. 0.025 makes the bounds those of a two-sided 95 % interval and keeps the error
            clear of 5 %.
        min_gain: reward by which the candidate must be better, at least; 0 means better at all.
        worthwhile_gain: when the log rules out a gain this large, the answer is `do not ship`, not
            `not enough data`.
        tolerated_loss: reward that a single preference or segment may lose before it blocks.
        min_events: independent events (distinct groups) below which nothing is decided.
        min_difference_ess: effective number of events that tell the two policies apart.
        min_action_events: a model logged less often counts as unsupported.
        max_unsupported_mass: largest mean probability that either policy may give to unsupported models.
        max_mean_weight_error: largest departure of the mean weight from 1, beyond four standard errors.
        bound: how the interval is made. On simulated logs the normal interval stayed closest to its level; the
            studentised bootstrap shipped too often where few events tell the policies apart. Empirical
            Bernstein holds at every n, but over eleven models logged uniformly its range term alone is 0.03
            at 8,000 events, so that it cannot ship a gain of 0.02.
        n_resamples: of the studentised bootstrap.
    """

    alpha: float = 0.025
    min_gain: float = 0.0
    worthwhile_gain: float = 0.02
    tolerated_loss: float = 0.02
    min_events: int = 300
    min_difference_ess: float = 50.0
    min_action_events: int = 20
    max_unsupported_mass: float = 0.02
    max_mean_weight_error: float = 0.02
    bound: Bound = "normal"
    n_resamples: int = 1000

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}: must lie inside (0, 0.5)")
        if self.worthwhile_gain < self.min_gain:
            raise ValueError(f"worthwhile_gain {self.worthwhile_gain} must be >= min_gain {self.min_gain}")
        if self.tolerated_loss < 0.0:
            raise ValueError(f"tolerated_loss is {self.tolerated_loss}: must be >= 0")


@dataclass(frozen=True)
class Comparison:
    """Candidate minus incumbent on one slice of the log; differences in units of reward.

    ``lower`` and ``upper`` each hold with confidence 1 - alpha. ``difference_ess`` is the effective number
    of events that tell the policies apart, ``*_ess`` and ``*_mean_weight`` those of each policy;
    ``unsupported_mass`` is the larger of the two policies'.
    """

    label: str
    n_events: int
    n_units: int
    difference: float
    standard_error: float
    lower: float
    upper: float
    difference_ess: float
    candidate_ess: float
    incumbent_ess: float
    candidate_mean_weight: float
    incumbent_mean_weight: float
    unsupported_mass: float
    decision: Decision
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The overall decision with its reasons, and the comparisons it rests on."""

    decision: Decision
    reasons: tuple[str, ...]
    overall: Comparison
    by_preference: tuple[Comparison, ...]
    by_segment: tuple[Comparison, ...]
    thresholds: VerdictThresholds

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers, ready for JSON."""
        return asdict(self)


def judge(
    log: LoggedOutcomes,
    candidate: FloatArray,
    incumbent: FloatArray | None,
    predictions: OutcomePredictions,
    *,
    w_cost: FloatArray,
    tau_usd: float,
    segments: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    thresholds: VerdictThresholds | None = None,
) -> Verdict:
    """Judge a candidate against the incumbent on a feedback log that trained neither.

    Every slice (the dial's mean, each setting, each segment over the dial's mean) gets its own decision:
    `ship` when the lower bound exceeds ``min_gain``; `do not ship` when the upper bound lies below
    ``worthwhile_gain``; `not enough data` otherwise, and whenever events, effective sample size or support
    fall short. The whole ships when the dial's mean ships and no slice's upper bound, at a level divided by
    the number of slices (Bonferroni), lies below ``-tolerated_loss``.

    Args:
        log: n events with true propensities.
        candidate: shape (S, n, K), probabilities on the logged prompts (and their eligible models) per
            setting.
        incumbent: shape (S, n, K); None for the policy that logged, whose reward on each event is known.
        predictions: cross-fitted outcomes (`cross_fit_outcomes`) of the same events.
        w_cost: shape (S,), the dial settings.
        tau_usd: cost scale of the reward in USD.
        segments: shape (n,), the task of each event; None for no segments.
        groups: shape (n,), events with one label are dependent (one prompt); None: all independent.
        thresholds: see `VerdictThresholds`.

    Raises:
        ValueError: malformed arrays.
    """
    limits = thresholds or VerdictThresholds()
    settings = np.atleast_1d(np.asarray(w_cost, dtype=np.float64))
    evidence = evidence_of_log(
        log, candidate, incumbent, predictions, settings, tau_usd, groups, limits.min_action_events
    )
    return _decide_all(evidence, settings, segments, limits)


def judge_outcomes(
    candidate: FloatArray,
    incumbent: FloatArray,
    scores: FloatArray,
    costs_usd: FloatArray,
    *,
    w_cost: FloatArray,
    tau_usd: float,
    segments: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    thresholds: VerdictThresholds | None = None,
) -> Verdict:
    """Judge a candidate against the incumbent on prompts that every model answered and that trained neither.

    The rules are those of `judge`; differences are observed, so support and weights play no role and
    ``difference_ess`` is the number of prompts that the two decide otherwise.

    Args:
        candidate: shape (S, n, K), probabilities per setting.
        incumbent: shape (S, n, K).
        scores: shape (n, K), in [0, 1].
        costs_usd: shape (n, K), USD per call.
        w_cost: shape (S,), the dial settings.
        tau_usd: cost scale of the reward in USD.
        segments: shape (n,), the task of each prompt; None for no segments.
        groups: shape (n,), prompts with one label are dependent (copies); None: all independent.
        thresholds: see `VerdictThresholds`.

    Raises:
        ValueError: malformed arrays or a missing outcome.
    """
    limits = thresholds or VerdictThresholds()
    settings = np.atleast_1d(np.asarray(w_cost, dtype=np.float64))
    evidence = evidence_of_outcomes(candidate, incumbent, scores, costs_usd, settings, tau_usd, groups)
    return _decide_all(evidence, settings, segments, limits)


def _decide_all(
    evidence: Evidence, settings: Float64Array, segments: npt.ArrayLike | None, limits: VerdictThresholds
) -> Verdict:
    whole = evidence.over_dial()
    overall = _compare("overall", whole, limits)
    slices = [(f"w_cost={w:g}", evidence.setting(s)) for s, w in enumerate(settings)]
    n_settings = len(slices)
    if segments is not None:
        names = np.asarray(segments)
        if names.shape != whole.contributions.shape:
            raise ValueError(
                f"segments has shape {names.shape}: expected {whole.contributions.shape}, one per event"
            )
        slices += [(f"task={name}", whole.rows(names == name)) for name in np.unique(names)]
    rows = [_compare(label, part, limits) for label, part in slices]
    losses = [
        f"{row.label} loses at least {-bound:.4f} (tolerated {limits.tolerated_loss:g})"
        for row, (_, part) in zip(rows, slices)
        if not _lacks(row, limits)
        and (bound := _interval(part, limits, limits.alpha / len(slices)).high) < -limits.tolerated_loss
    ]
    blocked = overall.decision is Decision.SHIP and bool(losses)
    return Verdict(
        decision=Decision.DO_NOT_SHIP if blocked else overall.decision,
        reasons=overall.reasons + tuple(losses),
        overall=overall,
        by_preference=tuple(rows[:n_settings]),
        by_segment=tuple(rows[n_settings:]),
        thresholds=limits,
    )


def _compare(label: str, part: Evidence, limits: VerdictThresholds) -> Comparison:
    m = moments(part.contributions, part.groups)
    low, high = _interval(part, limits, limits.alpha)
    row = Comparison(
        label=label,
        n_events=part.contributions.size,
        n_units=m.n_units,
        difference=m.mean,
        standard_error=m.standard_error,
        lower=low,
        upper=high,
        difference_ess=effective_sample_size(part.leverage),
        candidate_ess=effective_sample_size(part.candidate_weights),
        incumbent_ess=effective_sample_size(part.incumbent_weights),
        candidate_mean_weight=float(part.candidate_weights.mean()),
        incumbent_mean_weight=float(part.incumbent_weights.mean()),
        unsupported_mass=float(part.unsupported.mean()),
        decision=Decision.NOT_ENOUGH_DATA,
        reasons=(),
    )
    decision, reasons = _decide(row, part, limits)
    return Comparison(**{**vars(row), "decision": decision, "reasons": reasons})


def _decide(row: Comparison, part: Evidence, limits: VerdictThresholds) -> tuple[Decision, tuple[str, ...]]:
    if not part.policies_differ.any():
        return Decision.DO_NOT_SHIP, ("candidate and incumbent decide alike on every event",)
    lacking = _lacks(row, limits) + _weight_faults(part, limits)
    if lacking:
        return Decision.NOT_ENOUGH_DATA, lacking
    span = f"difference {row.difference:+.4f}, bounds {row.lower:+.4f} .. {row.upper:+.4f}"
    if row.lower > limits.min_gain:
        return Decision.SHIP, (f"{span}: better than {limits.min_gain:+g}",)
    if row.upper < limits.worthwhile_gain:
        return Decision.DO_NOT_SHIP, (f"{span}: a gain of {limits.worthwhile_gain:+g} is ruled out",)
    return Decision.NOT_ENOUGH_DATA, (f"{span}: neither a gain nor its absence is shown",)


def _lacks(row: Comparison, limits: VerdictThresholds) -> tuple[str, ...]:
    lacking = []
    if row.n_units < limits.min_events:
        lacking.append(f"{row.n_units} independent events, at least {limits.min_events} needed")
    if row.difference_ess < limits.min_difference_ess:
        lacking.append(
            f"{row.difference_ess:.0f} effective events tell the policies apart, "
            f"at least {limits.min_difference_ess:g} needed"
        )
    if row.unsupported_mass > limits.max_unsupported_mass:
        lacking.append(
            f"{row.unsupported_mass:.3f} of the decisions go to models with under {limits.min_action_events} "
            f"logged events, at most {limits.max_unsupported_mass:g} allowed"
        )
    return tuple(lacking)


def _weight_faults(part: Evidence, limits: VerdictThresholds) -> tuple[str, ...]:
    if not part.explored.any():
        return (
            "every logged propensity is 1: the log never tried another model than the one it chose, so it "
            "does not support another policy; log with some exploration",
        )
    faults = []
    for name, weights in (("candidate", part.candidate_weights), ("incumbent", part.incumbent_weights)):
        m = moments(weights, part.groups)
        if abs(m.mean - 1.0) > limits.max_mean_weight_error + 4.0 * m.standard_error:
            faults.append(
                f"mean weight of the {name} is {m.mean:.3f} +- {m.standard_error:.3f}, should be 1: "
                "propensities are wrong or the log does not cover it"
            )
    return tuple(faults)


def _interval(part: Evidence, limits: VerdictThresholds, alpha: float) -> Interval:
    confidence = 1.0 - 2.0 * alpha
    if limits.bound == "normal":
        return normal_interval(part.contributions, confidence, part.groups)
    if limits.bound == "studentised_bootstrap":
        return studentised_bootstrap_interval(
            part.contributions, confidence, part.groups, limits.n_resamples, seed=0
        )
    # |sum_a (pi_c - pi_i) r_hat| <= 1 and |v_c - v_i| |r - r_hat| <= the largest weight, since rewards at
    # one preference lie within a range of 1; a group adds up its events.
    sizes = np.bincount(part.groups)
    sizes = sizes[sizes > 0]
    value_range = 2.0 * (1.0 + part.largest_weight) * float(sizes.max() / sizes.mean())
    return empirical_bernstein_interval(part.contributions, value_range, confidence, part.groups)
