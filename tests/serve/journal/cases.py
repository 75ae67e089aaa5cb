"""Decisions as tests need them."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from serve.journal.records import DecisionRecord


def a_decision(decision_id: str, **changes: Any) -> DecisionRecord:
    """Return a decision between models a and b."""
    record = DecisionRecord(
        decision_id=decision_id,
        timestamp=datetime.now(UTC),
        prompt_id="p",
        w_quality=0.7,
        w_cost=0.3,
        eligible=("a", "b"),
        model="a",
        propensity=0.25,
        policy_version="v1",
        prompt_tokens=12,
        expected_score=0.5,
        expected_cost_usd=0.01,
        best_cost_usd=0.04,
        release="champion",
    )
    return dataclasses.replace(record, **changes)
