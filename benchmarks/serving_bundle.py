"""A policy artifact for serving benchmarks: an untrained outcome model costs what a trained one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.encoder import encoder_identity
from policies.outcome_model.features import ContextFeatures
from policies.outcome_model.network import EnsembleShape, OutcomeEnsemble
from policies.outcome_model.policy import OutcomeModelPolicy
from policies.pool import ModelPool, ModelSpec

N_MODELS = 11


def outcome_model(
    models: tuple[str, ...], dimension: int, prices: np.ndarray, seed: int = 0
) -> OutcomeModelPolicy:
    """Return an outcome model of the default size with random weights."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    features = ContextFeatures.fit(
        rng.standard_normal((500, dimension)).astype(np.float32), rng.uniform(5.0, 500.0, 500), 64, 0.3
    )
    network = OutcomeEnsemble(EnsembleShape(inputs=65, n_models=len(models)))
    k = len(models)
    arrays = {name: getattr(network, name).detach().numpy() for name in ("trunk", "trunk_bias")}
    return OutcomeModelPolicy(
        models=models,
        features=features,
        head=network.head().detach().numpy(),
        head_bias=network.bias.detach().numpy(),
        log_cost_mean=np.log(prices[:, 1] * 200),
        log_cost_std=1.0,
        sigma=np.full(k, 0.5),
        recalibration=np.ones(k),
        input_price_per_token_usd=prices[:, 0],
        tau_usd=0.01,
        **arrays,
    )


def example_bundle(directory: Path, n_models: int = N_MODELS) -> Path:
    """Write an artifact over ``n_models`` models into ``directory`` and return that."""
    specs = tuple(ModelSpec(f"model-{k:02d}", 0.1 * 1.4**k, 0.4 * 1.4**k) for k in range(n_models))
    return save_bundle(directory, specs)


def save_bundle(directory: Path, specs: tuple[ModelSpec, ...], *, seed: int = 0) -> Path:
    """Write an artifact over the given models into ``directory`` and return that."""
    pool = ModelPool("benchmark", specs)
    identity = encoder_identity("minilm", "auto", 256)
    prices = pool.prices_per_token_usd
    policy = outcome_model(pool.models, identity.dimension, prices, seed)
    costs = CostModel(prices, 50.0, prices[:, 1] * 200)
    RouterBundle(policy, pool, identity, costs, tau_usd=0.01).save(directory)
    return directory
