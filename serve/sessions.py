"""Sessions stay with their model while a switch would cost more than it gains.

An upstream that saw the conversation before reads the repeated part from its prompt cache at a discount; another
model reads all of it at full price. Staying therefore saves ``tokens seen before x input price x discount``, which
counts in the reward as any cost does: over tau, weighted by ``w_cost``. The rule is a function of the session's
last turn and of the request, so that the kept model has propensity 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from serve.journal.records import SessionTurn
from serve.settings.decision import SessionSettings


@dataclass(frozen=True)
class Stay:
    """What speaks for the model that answered last.

    Attributes:
        model: its name.
        cached_tokens: tokens that it may have in its cache.
        min_gain: gain in reward below which no switch is worth it.
        discount: share of the input price that a cached token saves.
    """

    model: str
    cached_tokens: float
    min_gain: float
    discount: float

    def worth(self, input_price_per_token_usd: float, w_cost: float, tau_usd: float) -> float:
        """Return the gain in reward that a switch must exceed."""
        saved_usd = self.cached_tokens * input_price_per_token_usd * self.discount
        return self.min_gain + w_cost * min(saved_usd / tau_usd, 1.0)


def stay_of(
    last: SessionTurn | None, prompt_tokens: float, now: datetime, settings: SessionSettings
) -> Stay | None:
    """Return what speaks for the last model; None when nothing does.

    Args:
        last: the session's latest decision.
        prompt_tokens: length of the conversation now.
        now: UTC.
        settings: the rule's parameters.
    """
    if last is None or not settings.sticky:
        return None
    if (now - last.timestamp).total_seconds() > settings.ttl_s:
        return None
    cached = min(float(last.prompt_tokens), prompt_tokens)
    return Stay(last.model, cached, settings.min_gain, settings.cached_token_discount)
