"""Stage `onboard`: a new model joins a trained LLM Bandit without retraining (arXiv 2502.02743, cold start).

``onboard select`` writes the prompts to ask the model and their expected price; ``onboard fit`` reads its answers and
registers the router over the larger pool.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import TradewindConfig
from pipeline.onboarding.fit import fit
from pipeline.onboarding.select import select
from policies.errors import InputError

ACTIONS: dict[str, Callable[[TradewindConfig], object]] = {"select": select, "fit": fit}


def run(config: TradewindConfig) -> object:
    """Do the configured half: a table of prompts, or what was registered.

    Raises:
        InputError: neither half is named, or see :func:`select` and :func:`fit`.
    """
    if config.onboard.action is None:
        raise InputError("onboard: what to do is not given; allowed: onboard select, onboard fit")
    return ACTIONS[config.onboard.action](config)
