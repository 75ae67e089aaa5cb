"""Off-policy evaluation: what another policy would have earned on logged, partial feedback."""

from policies.ope.diagnostics import Diagnostics, diagnose, effective_sample_size
from policies.ope.estimators import (
    Estimate,
    all_estimates,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    self_normalised_doubly_robust,
    snips,
    switch_doubly_robust,
)
from policies.ope.evidence import paired_contributions
from policies.ope.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    empirical_bernstein_interval,
    normal_interval,
    studentised_bootstrap_interval,
)
from policies.ope.logged import LoggedBandit, LoggedOutcomes
from policies.ope.outcome_regression import OutcomePredictions, cross_fit_outcomes
from policies.ope.verdict import (
    Comparison,
    Decision,
    Verdict,
    VerdictThresholds,
    judge,
    judge_outcomes,
)

__all__ = [
    "Comparison",
    "Decision",
    "Diagnostics",
    "Estimate",
    "Interval",
    "LoggedBandit",
    "LoggedOutcomes",
    "OutcomePredictions",
    "Verdict",
    "VerdictThresholds",
    "all_estimates",
    "bootstrap_interval",
    "bootstrap_intervals",
    "clipped_ips",
    "cross_fit_outcomes",
    "diagnose",
    "direct_method",
    "doubly_robust",
    "effective_sample_size",
    "empirical_bernstein_interval",
    "ips",
    "judge",
    "judge_outcomes",
    "normal_interval",
    "paired_contributions",
    "self_normalised_doubly_robust",
    "snips",
    "studentised_bootstrap_interval",
    "switch_doubly_robust",
]
