"""What a feedback log lets a learner learn, said before the learning begins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from pipeline.config import TradewindConfig
from pipeline.config.policy import BarpConfig
from policies.datasets import LoggedFeedback
from policies.errors import InputError

TINY = 0.01
"""A propensity below it makes a weight of more than a hundred."""


@dataclass(frozen=True)
class LogQuality:
    """Figures of the scored training events.

    Attributes:
        n_events: their number.
        n_without_outcome: events left out, as score or cost has not arrived.
        smallest_propensity: of the events.
        share_tiny: share of events with a propensity below 0.01.
        share_explored: share with a propensity below 1: another model could have been called.
        effective_events: ``(sum 1/p)^2 / sum 1/p^2``, the events' worth under inverse propensity weights.
        events_per_model: by model, 0 where it was never called.
    """

    n_events: int
    n_without_outcome: int
    smallest_propensity: float
    share_tiny: float
    share_explored: float
    effective_events: float
    events_per_model: dict[str, int]

    @classmethod
    def of(cls, log: LoggedFeedback) -> Self:
        """Measure a log; events without an outcome do not count."""
        events = log.scored()
        weights = 1.0 / events.propensities
        counts = np.bincount(events.actions, minlength=len(events.pool.models))
        return cls(
            n_events=len(events),
            n_without_outcome=events.n_without_outcome,
            smallest_propensity=float(events.propensities.min()),
            share_tiny=float((events.propensities < TINY).mean()),
            share_explored=float((events.propensities < 1.0).mean()),
            effective_events=float(weights.sum() ** 2 / (weights**2).sum()),
            events_per_model=dict(zip(events.pool.models, counts.tolist())),
        )

    @property
    def deterministic(self) -> bool:
        """Whether no event's model was drawn: there is nothing that a weight could correct."""
        return self.share_explored == 0.0

    def notes(self) -> dict[str, Any]:
        """Return the figures for the artifact, ready for JSON."""
        return {**asdict(self), "deterministic": self.deterministic}

    def remarks(self, config: TradewindConfig) -> list[str]:
        """Return what a user should know of the log before believing the policy."""
        found = []
        if self.n_without_outcome:
            found.append(f"{self.n_without_outcome} events have no score or cost yet and are left out")
        if self.deterministic:
            found.append(
                "every logged propensity is 1: learning from predicted outcomes alone; such a log cannot prove "
                "what the policy gains, evaluate will answer 'not enough data'"
            )
        if self.share_tiny > 0.0:
            policy = config.policy
            cut = (
                f"importance weights are clipped at {policy.importance_clip:g} (policy.importance_clip)"
                if isinstance(policy, BarpConfig)
                else "this policy does not weight events by them, evaluate does"
            )
            found.append(
                f"{self.share_tiny:.1%} of the propensities lie below {TINY} (smallest "
                f"{self.smallest_propensity:.2g}; {self.effective_events:,.0f} of {self.n_events:,} events count "
                f"effectively): {cut}"
            )
        unseen = [model for model, count in self.events_per_model.items() if count == 0]
        if unseen:
            found.append(f"no scored event of {', '.join(unseen)}: what they score and cost is a guess")
        return found


def refuse_without_exploration(quality: LogQuality, config: TradewindConfig, source: str) -> None:
    """Do nothing unless the policy learns by weighting events and the log never explored.

    Raises:
        InputError: it does, and the log did not.
    """
    if quality.deterministic and config.policy.name == "barp":
        raise InputError(
            f"{source}: every propensity is 1, the log never tried another model than the one it chose; policy=barp "
            "learns by comparing models under known propensities and has nothing to compare. Log with some exploration "
            "(serve.decision=sample, or simulate.epsilon > 0), or use policy=outcome_model, which learns from "
            "predicted outcomes alone"
        )
