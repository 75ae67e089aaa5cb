"""Two cost scales: tau of the reward that policies are compared by, and tau of the reward that a learner sees.

A learner may do better on the first when it is trained on another one: a smaller tau spreads the preferences
over cheaper models. Comparing trials by their own tau would compare yardsticks.
"""

from __future__ import annotations

import numpy as np

from pipeline.config import TradewindConfig
from policies.datasets import LoggedFeedback, OutcomeMatrix
from policies.errors import InputError
from policies.preference import FloatArray


def reference_tau_usd(config: TradewindConfig, train: OutcomeMatrix | LoggedFeedback) -> float:
    """Return the cost scale in USD of every comparison: ``train.tau_usd``, else the data's default.

    Raises:
        InputError: training costs give no positive scale.
    """
    if config.train.tau_usd is not None:
        return config.train.tau_usd
    try:
        return train.tau_usd()
    except ValueError as error:
        raise InputError(f"train.tau_usd: {error}") from None


def training_tau_usd(config: TradewindConfig, costs_usd: FloatArray, reference_tau_usd: float) -> float:
    """Return the cost scale in USD that the learner is trained with.

    Args:
        config: ``train.tau_quantile`` is read.
        costs_usd: observed training costs, of :func:`scale_costs_usd`.
        reference_tau_usd: used when no quantile is configured.

    Raises:
        InputError: that quantile of the costs is not positive.
    """
    quantile = config.train.tau_quantile
    if quantile is None:
        return reference_tau_usd
    tau_usd = float(np.quantile(costs_usd, quantile)) if len(costs_usd) else 0.0
    if tau_usd <= 0.0:
        raise InputError(
            f"train.tau_quantile={quantile}: that quantile of {len(costs_usd)} training costs is {tau_usd} USD; "
            "it must be positive"
        )
    return tau_usd


def scale_costs_usd(scores: FloatArray, costs_usd: FloatArray) -> FloatArray:
    """Return the costs that quantiles are taken of, shape (m,): prompts that every model answered, or all events.

    Args:
        scores: shape (n, K) or, of a log, (n,).
        costs_usd: same shape, USD per call.
    """
    observed = np.isfinite(scores) & np.isfinite(costs_usd)
    return costs_usd[observed.all(axis=1)].ravel() if costs_usd.ndim == 2 else costs_usd[observed]
