"""Predicted against observed scores and costs, for policies that predict outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policies.bundle import RouterBundle
from policies.datasets import OutcomeMatrix
from policies.metrics.calibration import reliability
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.predicting import PredictingPolicy
from policies.preference import cost_term

FloatArray = npt.NDArray[np.float64]


def calibration(bundle: RouterBundle, data: OutcomeMatrix, decided: FloatArray) -> dict[str, Any] | None:
    """Return the ``calibration`` of one split in ``metrics.json``, None without predictions.

    ``all`` counts every pair of prompt and model once. ``called`` counts the pairs as often as the policy calls
    them over the dial: among these the predictions look too good, because the best looking model is called.

    Args:
        bundle: the run's artifact; its tau is the scale of predicted cost terms.
        data: n completely observed prompts.
        decided: shape (n_settings, n, K), the policy's decisions.
    """
    if not isinstance(bundle.policy, PredictingPolicy):
        return None
    scores, cost_terms = bundle.policy.predict(data.embeddings, data.prompt_tokens)
    tau_usd = bundle.policy.tau_usd if isinstance(bundle.policy, OutcomeModelPolicy) else bundle.tau_usd
    observed_terms = cost_term(data.costs_usd, tau_usd)
    calls = decided.mean(axis=0)
    return {
        "scores": {
            "all": _bins(scores, data.scores, None),
            "called": _bins(scores, data.scores, calls),
        },
        "tau_usd": tau_usd,
        "models": {
            model: {
                "score_predicted": float(scores[:, j].mean()),
                "score_observed": float(data.scores[:, j].mean()),
                "score_error": reliability(scores[:, j], data.scores[:, j]).expected_calibration_error,
                # Costs beyond tau count as tau, in the reward and so in the prediction.
                "capped_cost_predicted_usd": float(cost_terms[:, j].mean() * tau_usd),
                "capped_cost_observed_usd": float(observed_terms[:, j].mean() * tau_usd),
                "cost_term_error": reliability(
                    cost_terms[:, j], observed_terms[:, j]
                ).expected_calibration_error,
            }
            for j, model in enumerate(data.pool.models)
        },
    }


def _bins(predicted: FloatArray, observed: FloatArray, weights: FloatArray | None) -> dict[str, Any]:
    found = reliability(predicted, observed, weights)
    return {
        "count": found.counts.tolist(),
        "predicted": found.predicted.tolist(),
        "observed": found.observed.tolist(),
        "expected_calibration_error": found.expected_calibration_error,
        "mean_predicted": float(np.average(found.predicted, weights=found.counts)),
        "mean_observed": float(np.average(found.observed, weights=found.counts)),
    }
