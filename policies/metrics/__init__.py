"""Routing metrics as pure functions of outcome tables and routing probabilities (numpy only)."""

from policies.metrics.arena import arena_cost, arena_score
from policies.metrics.dial import (
    cost_save,
    cost_save_setting,
    dead_dial_share,
    max_cost_rise,
    perf_gain,
    perf_gain_setting,
)
from policies.metrics.hull import AIQ_GRID_POINTS, aiq, hull_quality, mix_line, mix_line_aiq, upper_hull
from policies.metrics.pareto import hypervolume, pareto_distances, pareto_front
from policies.metrics.routing import (
    DialPoints,
    action_entropy,
    action_shares,
    best_single_choices,
    dial_points,
    gap_closed,
    mean_reward,
    mean_rewards,
    oracle_choices,
    oracle_rewards,
    regret,
    rewards_at,
    single_model_rewards,
)
from policies.metrics.score import (
    ChosenSettings,
    RouterScore,
    bootstrap_intervals,
    choose_settings,
    score_router,
)
from policies.metrics.tables import checked_outcomes, checked_probabilities, one_hot
from policies.metrics.two_model import (
    average_performance_gap_recovered,
    call_performance_threshold,
    performance_gap_recovered,
    strong_call_curve,
)

__all__ = [
    "AIQ_GRID_POINTS",
    "ChosenSettings",
    "DialPoints",
    "RouterScore",
    "action_entropy",
    "action_shares",
    "aiq",
    "arena_cost",
    "arena_score",
    "average_performance_gap_recovered",
    "best_single_choices",
    "bootstrap_intervals",
    "call_performance_threshold",
    "checked_outcomes",
    "checked_probabilities",
    "choose_settings",
    "cost_save",
    "cost_save_setting",
    "dead_dial_share",
    "dial_points",
    "gap_closed",
    "hull_quality",
    "hypervolume",
    "max_cost_rise",
    "mean_reward",
    "mean_rewards",
    "mix_line",
    "mix_line_aiq",
    "one_hot",
    "oracle_choices",
    "oracle_rewards",
    "pareto_distances",
    "pareto_front",
    "perf_gain",
    "perf_gain_setting",
    "performance_gap_recovered",
    "regret",
    "rewards_at",
    "score_router",
    "single_model_rewards",
    "strong_call_curve",
    "upper_hull",
]
