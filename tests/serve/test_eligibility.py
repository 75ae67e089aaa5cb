from __future__ import annotations

import numpy as np
import pytest

from policies.pool import ModelPool, ModelSpec
from serve.eligibility import Eligibility, NoEligibleModelError, UnknownModelsError
from serve.question import Constraints

POOL = ModelPool(
    "three",
    (
        ModelSpec("large", 3.0, 15.0, context_window_tokens=1_000, tags=("tools", "vision")),
        ModelSpec("small", 0.1, 0.4, context_window_tokens=100, tags=("tools",)),
        ModelSpec("bare", 0.1, 0.4),
    ),
)
COSTS = np.array([0.03, 0.001, 0.002])
LATENCIES = [2.0, 0.5, None]


def judge(
    constraints: Constraints = Constraints(),  # noqa: B008
    tokens: float = 10,
    unhealthy: dict[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    mask, reasons = Eligibility(POOL).eligible(constraints, tokens, COSTS, LATENCIES, unhealthy or {})
    return [model for model, may in zip(POOL.models, mask) if may], reasons


def test_without_constraints_all_are_eligible():
    assert judge() == (["large", "small", "bare"], {})


@pytest.mark.parametrize(
    ("constraints", "left", "said"),
    [
        (Constraints(exclude=("small",)), ["large", "bare"], {"small": "excluded"}),
        (Constraints(models=("bare", "large"), exclude=("large",)), ["bare"], {"large": "excluded"}),
        (Constraints(max_cost_usd=0.002), ["small", "bare"], {"large": "max_cost_usd 0.002"}),
        (Constraints(max_latency_s=1.0), ["small", "bare"], {"large": "max_latency_s 1"}),
        (
            Constraints(budget_usd=1e-3, worst_completion_tokens=100),
            ["small", "bare"],
            {"large": "0.001 USD of"},
        ),
        (Constraints(budget_usd=2e-3, worst_completion_tokens=100), ["large", "small", "bare"], {}),
        (Constraints(needs=("tools", "vision")), ["large", "bare"], {"small": "vision"}),
        (Constraints(completion_tokens=91), ["large", "bare"], {"small": "91 for the answer"}),
        (Constraints(completion_tokens=90), ["large", "small", "bare"], {}),
    ],
)
def test_what_rules_a_model_out_is_told(constraints, left, said):
    found, reasons = judge(constraints)
    assert found == left
    assert reasons.keys() == said.keys()
    for model, words in said.items():
        assert words in reasons[model]


def test_an_unhealthy_model_keeps_its_reason():
    assert judge(unhealthy={"small": "resting after 5 failures"}) == (
        ["large", "bare"],
        {"small": "resting after 5 failures"},
    )


def test_what_is_not_known_rules_nothing_out():
    assert "bare" in judge(Constraints(needs=("vision",), max_latency_s=0.0))[0]


def test_nothing_left_names_every_reason():
    with pytest.raises(NoEligibleModelError) as caught:
        judge(Constraints(models=("large", "small"), max_cost_usd=0.0))
    assert set(caught.value.reasons) == {"large", "small"}


@pytest.mark.parametrize("param", ["models", "exclude"])
def test_an_unknown_name_is_told_with_its_field(param):
    with pytest.raises(UnknownModelsError, match="'gpt'") as caught:
        Eligibility(POOL).check_names(Constraints(**{param: ("gpt",)}))
    assert caught.value.param == param


def test_it_is_told_what_would_have_to_be_paid():
    with pytest.raises(NoEligibleModelError) as caught:
        judge(Constraints(models=("large", "small"), budget_usd=1e-5, worst_completion_tokens=100))
    assert caught.value.least_usd == pytest.approx((10 * 0.1 + 100 * 0.4) / 1e6)
    with pytest.raises(NoEligibleModelError) as caught:
        judge(Constraints(models=("large",), needs=("audio",), budget_usd=1e-5, worst_completion_tokens=100))
    assert caught.value.least_usd is None


def test_a_budget_counts_what_a_call_costs_beside_its_tokens():
    specs = (ModelSpec("calculator", 0.0, 0.0, kind="tool", price_per_call_usd=0.01), POOL.specs[2])
    eligibility = Eligibility(ModelPool("tool", specs))
    tight = Constraints(budget_usd=0.005, worst_completion_tokens=100)
    mask, reasons = eligibility.eligible(tight, 10, np.array([0.01, 0.002]), [None, None], {})
    assert mask.tolist() == [False, True]
    assert "may cost 0.01 USD" in reasons["calculator"]
