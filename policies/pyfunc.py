"""The router as an MLflow pyfunc: a frame of prompts and preferences in, a frame of decisions out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from policies.bundle import RouterBundle
from policies.bundle_encoder import load_bundle_encoder
from policies.costs import estimate_prompt_tokens
from policies.encoder import Encoder
from policies.errors import InputError
from policies.preference import normalise_preference

ARTIFACT = "policy"
"""Name under which the policy artifact is stored with the model, below ``artifacts/``."""

PROBABILITY_PREFIX = "probability:"
"""Output columns ``probability:MODEL`` hold the whole distribution."""


class RouterModel(mlflow.pyfunc.PythonModel):
    """Scores prompts with the policy artifact that the model version carries.

    ``model_config`` may set ``batch_tokens``, the padded tokens of one forward pass of the encoder.
    """

    bundle: RouterBundle
    encoder: Encoder

    def load_context(self, context: Any) -> None:
        """Load the policy artifact and the encoder that it was trained on.

        Raises:
            InputError: the artifact is unreadable, or this machine's encoder has other weights.
        """
        settings = context.model_config or {}
        self.bundle = RouterBundle.load(Path(context.artifacts[ARTIFACT]))
        self.encoder = load_bundle_encoder(
            self.bundle,
            batch_tokens=int(settings.get("batch_tokens", 1024)),
        )

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one decision per row.

        Args:
            context: MLflow's context, not used here.
            model_input: columns ``prompt`` (string), ``w_cost`` in [0, 1] and, optionally, ``w_quality`` (both
                weights are then normalised to sum to one; where it is null, ``w_cost`` alone counts).
            params: not used.

        Returns:
            Columns ``model`` (most probable), ``probability`` (the policy's, of that model),
            ``expected_cost_usd``, ``policy_version`` and ``probability:MODEL`` for every model.

        Raises:
            InputError: a prompt is empty or a preference invalid; the message names row and column.
        """
        prompts = _prompts(model_input)
        preferences = _preferences(model_input)
        tokens = estimate_prompt_tokens(prompts)
        probabilities = self.bundle.policy.action_probabilities(
            self.encoder.encode(prompts), preferences, prompt_tokens=tokens
        )
        chosen = probabilities.argmax(axis=1)
        rows = np.arange(len(prompts))
        costs = self.bundle.cost_model.expected_costs_usd(tokens, len(prompts))
        models = self.bundle.pool.models
        decided = {
            "model": [models[column] for column in chosen],
            "probability": probabilities[rows, chosen],
            "expected_cost_usd": costs[rows, chosen],
            "policy_version": self.bundle.policy_version,
        }
        every = {PROBABILITY_PREFIX + model: probabilities[:, k] for k, model in enumerate(models)}
        return pd.DataFrame({**decided, **every})


def signature(models: tuple[str, ...]) -> ModelSignature:
    """Return the model signature for a pool."""
    text, number = DataType.string, DataType.double
    return ModelSignature(
        inputs=Schema(
            [ColSpec(text, "prompt"), ColSpec(number, "w_cost"), ColSpec(number, "w_quality", required=False)]
        ),
        outputs=Schema(
            [
                ColSpec(text, "model"),
                ColSpec(number, "probability"),
                ColSpec(number, "expected_cost_usd"),
                ColSpec(text, "policy_version"),
                *(ColSpec(number, PROBABILITY_PREFIX + model) for model in models),
            ]
        ),
    )


def input_example() -> pd.DataFrame:
    """Return two prompts with opposite preferences."""
    return pd.DataFrame(
        {"prompt": ["What is 17 * 23?", "Write a short poem about the sea."], "w_cost": [0.1, 0.9]}
    )


def _prompts(frame: pd.DataFrame) -> list[str]:
    prompts = frame["prompt"].tolist()
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"row {row}, column 'prompt': {prompt!r}; allowed: a non-empty text")
    return prompts


def _preferences(frame: pd.DataFrame) -> np.ndarray:
    costs = frame["w_cost"].to_numpy(dtype=np.float64)
    qualities = np.full(len(costs), np.nan)
    if "w_quality" in frame:
        qualities = frame["w_quality"].to_numpy(dtype=np.float64)
    rows = []
    for row, (w_quality, w_cost) in enumerate(zip(qualities, costs)):
        try:
            rows.append(
                normalise_preference(None if np.isnan(w_quality) else float(w_quality), float(w_cost))
            )
        except ValueError as error:
            raise InputError(f"row {row}: {error}") from None
    return np.array(rows, dtype=np.float32).reshape(-1, 2)
