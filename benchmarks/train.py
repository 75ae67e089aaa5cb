"""Learner samples per second through RLlib against a bare PyTorch loop of the same work.

Both sides train the same network with the same optimiser, batch size and draws (preference, action) on the same
synthetic table, in alternating rounds; the medians and their ratio are printed as one JSON line.

    python benchmarks/train.py [--rows 16384] [--models 11] [--batch 256] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch

from pipeline.console import configure_logging
from policies.barp.algorithm import BarpAlgorithmConfig
from policies.barp.learner import MASKED_LOGIT, batch_baseline, sample_actions, uniform_preferences
from policies.barp.network import BarpNetwork
from policies.rllib.columns import TRAIN, VALIDATION, write_columns

EMBEDDING_DIM = 384
TAU_USD = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--models", type=int, default=11)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    configure_logging(show_all=False)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    columns = {
        "embeddings": rng.normal(size=(options.rows, EMBEDDING_DIM)).astype(np.float32),
        "prompt_tokens": np.full(options.rows, 100.0, dtype=np.float32),
        "scores": rng.random((options.rows, options.models)).astype(np.float32),
        "costs_usd": (rng.random((options.rows, options.models)) * TAU_USD).astype(np.float32),
    }
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        write_columns(Path(folder) / TRAIN, columns)
        write_columns(Path(folder) / VALIDATION, {name: values[:64] for name, values in columns.items()})
        config = (
            BarpAlgorithmConfig()
            .data(folder, embedding_dim=EMBEDDING_DIM, n_models=options.models)
            .training(tau_usd=TAU_USD, train_batch_size_per_learner=options.batch, dropout=0.1)
        )
        algorithm = config.build_algo()
        bare = BareLoop(config, columns)
        trained_rows = options.rows // options.batch * options.batch
        rates: dict[str, list[float]] = {"rllib": [], "bare": []}
        for round_ in range(options.rounds + 1):
            for name, epoch in (("rllib", algorithm.training_step), ("bare", bare.epoch)):
                started = time.perf_counter()
                epoch()
                if round_ > 0:  # the first round warms up
                    rates[name].append(trained_rows / (time.perf_counter() - started))
        algorithm.stop()
    ray.shutdown()
    rllib, plain = (statistics.median(rates[name]) for name in ("rllib", "bare"))
    result = {
        "benchmark": "train",
        "rllib_samples_per_s": round(rllib),
        "bare_samples_per_s": round(plain),
        "ratio": round(statistics.median(a / b for a, b in zip(rates["rllib"], rates["bare"])), 3),
        **vars(options),
    }
    print(json.dumps(result))


class BareLoop:
    """The same gradient steps without RLlib."""

    def __init__(self, config: BarpAlgorithmConfig, columns: dict[str, np.ndarray]) -> None:
        self.config = config
        self.embeddings, self.scores = (
            torch.from_numpy(columns["embeddings"]),
            torch.from_numpy(columns["scores"]),
        )
        self.cost_terms = (torch.from_numpy(columns["costs_usd"]) / TAU_USD).clamp(max=1.0)
        self.allowed = torch.isfinite(self.scores) & torch.isfinite(self.cost_terms)
        self.network = BarpNetwork(config.network_shape)
        self.network.standardise(self.embeddings)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    def epoch(self) -> None:
        """Take one pass over the rows."""
        steps = torch.randperm(len(self.embeddings)).split(self.config.train_batch_size_per_learner)
        for rows in steps:
            if len(rows) < len(steps[0]):
                break
            w = uniform_preferences(len(rows), rows.device)
            logits = self.network(self.embeddings[rows], w).masked_fill(~self.allowed[rows], MASKED_LOGIT)
            log_probabilities = torch.log_softmax(logits, dim=1)
            probabilities = log_probabilities.exp()
            action = sample_actions(log_probabilities.detach())
            score = self.scores[rows].gather(1, action)[:, 0]
            cost_term = self.cost_terms[rows].gather(1, action)[:, 0]
            reward = w[:, 0] * score - w[:, 1] * cost_term
            baseline = batch_baseline(reward, w, torch.ones_like(reward), self.config.baseline)
            log_probability = log_probabilities.gather(1, action)[:, 0]
            entropy = -(probabilities * log_probabilities).sum(dim=1).mean()
            loss = -((reward - baseline) * log_probability).mean() - self.config.entropy_coeff * entropy
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()


if __name__ == "__main__":
    main()
