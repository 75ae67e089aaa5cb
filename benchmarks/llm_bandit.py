"""LLM Bandit: time of one decision, PPO throughput against RLlib's stock runner, learner against bare PyTorch.

All on one synthetic table and the default network; wall and CPU seconds of this process, one thread. ``train`` is
decisions a second through whole PPO iterations (drawing, deciding, learning), ``sample`` without learning; the stock
side is RLlib's own PPO, runner and learner on the same prompts, sets and network, one decision a step. ``learner`` is
gradient steps through RLlib's learner over a plain loop of the same loss on the same batch. Prints one JSON line.

    python -m benchmarks.llm_bandit [--candidates 16] [--rounds 5] [--sets 512]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from pipeline.console import configure_logging
from policies.bundle import EncoderIdentity, RouterBundle
from policies.costs import CostModel
from policies.llm_bandit.contexts import DecisionTable, nearest_neighbours
from policies.llm_bandit.identity_vectors import Arms, ScoringNetwork
from policies.llm_bandit.policy import LlmBanditPolicy
from policies.llm_bandit.ppo import SetPolicyModule, SetPpoConfig
from policies.llm_bandit.ppo_runner import ADVANTAGES, VALUE_TARGETS, VALUES
from policies.llm_bandit.router_env import ARMS, INPUTS, MASK, PREFERENCES, RouterVectorEnv
from policies.llm_bandit.sampling import SetSampler
from policies.llm_bandit.set_network import SetPolicyNetwork, SetShape
from policies.llm_bandit.set_policy import FrozenSetPolicy
from policies.outcome_model.features import ContextFeatures
from policies.pool import ModelPool, ModelSpec
from serve.decider import Decider
from serve.settings.decision import ExplorationSettings

DIMENSION, COMPONENTS, IDENTITY, MODELS = 384, 64, 24, 29
SHAPE = SetShape(COMPONENTS + 1, IDENTITY, head="identity")


def synthetic_table(n: int, rng: np.random.Generator) -> DecisionTable:
    """Return n prompts over MODELS models with random outcomes."""
    inputs = rng.normal(size=(n, COMPONENTS + 1)).astype(np.float32)
    scores, costs = rng.random((2, n, MODELS), dtype=np.float32)
    identity = rng.normal(size=(MODELS, IDENTITY)).astype(np.float32)
    return DecisionTable(
        inputs,
        identity,
        scores,
        costs,
        (rng.random((n, MODELS)) < scores).astype(np.float32),
        costs,
        np.ones((n, MODELS), bool),
        nearest_neighbours(inputs, 5),
    )


def random_bundle(rng: np.random.Generator) -> RouterBundle:
    """Return a router over MODELS models whose weights are drawn; the last one's posterior is wide."""

    def draw(*shape: int) -> np.ndarray:
        return 0.1 * rng.normal(size=shape).astype(np.float32)

    features = ContextFeatures(draw(DIMENSION), draw(DIMENSION, COMPONENTS), 4.0, 1.0, 0.3)
    network = ScoringNetwork(
        features, draw(4, COMPONENTS + 1, 128), draw(4, 1, 128), draw(4, 128, 2), draw(4, 1, 2),
        draw(4, 128, 2 * IDENTITY), draw(4, 1, 2 * IDENTITY), (1.0, 0.0), 1.0, 0.01,
    )  # fmt: skip
    ones = np.ones(MODELS)
    std = np.full((MODELS, IDENTITY), 0.1, dtype=np.float32)
    std[-1] = 0.4
    pool = ModelPool("random", tuple(ModelSpec(f"m{k}", 1.0, 4.0) for k in range(MODELS)))
    arms = Arms(pool.models, draw(MODELS, IDENTITY), std, -7.0 * ones, ones, ones, 1e-6 * ones)
    policy = LlmBanditPolicy(network, arms, FrozenSetPolicy.of(SetPolicyNetwork.seeded(SHAPE, 0)))
    costs = CostModel(pool.prices_per_token_usd, 80.0, 1e-3 * ones)
    return RouterBundle(policy, pool, EncoderIdentity("random", "0" * 64, "none", DIMENSION), costs, 0.01)


def decision_us(rng: np.random.Generator, rounds: int) -> dict[str, float]:
    """Return the time of one decision over MODELS candidates, given the embedding, in microseconds.

    ``decision`` is the policy's own, ``answer`` the endpoint's with expected scores and costs, ``explore`` the same
    with newcomers to try.
    """
    bundle = random_bundle(rng)
    embeddings = 0.1 * rng.normal(size=(1, DIMENSION)).astype(np.float32)
    w, tokens = np.array([[0.6, 0.4]]), np.array([80.0])
    greedy = Decider(bundle)
    exploring = Decider(bundle, exploration=ExplorationSettings(kind="newcomers"))
    calls: dict[str, Callable[[], object]] = {
        "decision": lambda: bundle.policy.action_probabilities(embeddings, w, prompt_tokens=tokens),
        "answer": lambda: greedy.decide(embeddings[0], (0.6, 0.4), prompt_tokens=80.0),
        "explore": lambda: exploring.decide(embeddings[0], (0.6, 0.4), prompt_tokens=80.0),
    }
    found = {}
    for name, call in calls.items():
        wall, cpu = [], []
        for _ in range(200 * rounds):
            started = time.perf_counter(), time.process_time()
            call()
            wall.append(time.perf_counter() - started[0])
            cpu.append(time.process_time() - started[1])
        found[f"{name}_us_p50"] = 1e6 * statistics.median(wall)
        found[f"{name}_cpu_us"] = 1e6 * statistics.fmean(cpu)
    return found


class StockRouterEnv(RouterVectorEnv):
    """The same task in the form that RLlib's own runner wants: one decision, and a reset on the next step."""

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.single_action_space = gym.spaces.Discrete(self.width)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self._over = False

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Pay and end, or begin anew."""
        no = np.zeros(self.num_envs, bool)
        if self._over:
            self._over = False
            observation, info = self.reset()
            return observation, np.zeros(self.num_envs), no, no, info
        paid = self.pay(np.asarray(actions, dtype=np.int64).reshape(-1, 1))
        w = self._preferences
        reward = (w[..., 0] * paid.score - w[..., 1] * paid.cost_term)[:, 0]
        self._over = True
        return self._observation, reward, ~no, no, {}

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw and remember the observation."""
        self._observation, info = super().reset(**kwargs)
        return self._observation, info


class StockModule(SetPolicyModule):
    """The same network with the scalar value that RLlib's PPO wants."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = super()._forward(batch)
        w = batch[Columns.OBS][PREFERENCES][:, 0]
        value = w[:, 0] * out[VALUES][:, 0] - w[:, 1] * out[VALUES][:, 1]
        return {Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS][:, 0], Columns.EMBEDDINGS: value}

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> torch.Tensor:
        """Return the value of the forward pass, or of another."""
        return self._forward(batch)[Columns.EMBEDDINGS] if embeddings is None else embeddings


def stock_config(folder: Path, sampler: SetSampler, decisions: int, minibatch: int) -> PPOConfig:
    """Return RLlib's PPO on the same table, as many decisions an iteration and a minibatch."""
    settings = {"preferences_per_set": 1, "normalisation": "tau", "seed": 0}

    def make(context: Any) -> StockRouterEnv:
        env = StockRouterEnv.open(folder, asdict(sampler), num_envs=context["num_envs"], **settings)
        assert isinstance(env, StockRouterEnv)
        return env

    register_env("stock-router", make)
    module = {"shape": SHAPE.to_dict(), "seed": 0, "weights": None}
    return (
        PPOConfig()
        .environment("stock-router")
        .env_runners(
            num_env_runners=0, num_envs_per_env_runner=256, gym_env_vectorize_mode="vector_entry_point"
        )
        .training(
            train_batch_size_per_learner=decisions, minibatch_size=minibatch, num_epochs=2, use_kl_loss=False
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=StockModule, model_config=module))
    )


def seconds(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median wall and CPU seconds of a call, after one to warm up."""
    call()
    wall, cpu = [], []
    for _ in range(rounds):
        started = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    return statistics.median(wall), statistics.median(cpu)


def bare_epochs(network: SetPolicyNetwork, batch: Any, minibatch: int, epochs: int) -> Callable[[], None]:
    """Return the learner's work on one batch as a plain loop."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

    def run() -> None:
        obs = {name: torch.from_numpy(np.asarray(v)) for name, v in batch[Columns.OBS].items()}
        flat = {
            n: torch.from_numpy(np.asarray(batch[n]))
            for n in (Columns.ACTIONS, Columns.ACTION_LOGP, ADVANTAGES, VALUE_TARGETS)
        }
        for _ in range(epochs):
            for rows in torch.randperm(len(obs[INPUTS])).split(minibatch):
                logits, values = network(
                    *(obs[n][rows] for n in (INPUTS, ARMS)), obs[MASK][rows].bool(), obs[PREFERENCES][rows]
                )
                log_pi = torch.log_softmax(logits, dim=2)
                log_p = log_pi.gather(2, flat[Columns.ACTIONS][rows][..., None])[..., 0]
                ratio = (log_p - flat[Columns.ACTION_LOGP][rows]).exp()
                advantage = flat[ADVANTAGES][rows]
                surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
                entropy = -(log_pi.exp() * log_pi).sum(dim=2).mean()
                loss = -surrogate + ((values - flat[VALUE_TARGETS][rows]) ** 2).mean() - 0.01 * entropy
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--sets", type=int, default=512)
    parser.add_argument("--preferences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    configure_logging(show_all=False)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"benchmark": "llm_bandit", **vars(options), **decision_us(rng, options.rounds)}
    decisions, minibatch = options.sets * options.preferences, 128
    sampler = SetSampler(max_candidates=options.candidates)
    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        synthetic_table(options.prompts, rng).write(Path(folder) / "t")
        config = SetPpoConfig().router(
            Path(folder) / "t", SHAPE, sampler,
            sets_per_iteration=options.sets, preferences_per_set=options.preferences,
        ).training(minibatch_size=minibatch, num_epochs=2, entropy_coeff=0.01)  # fmt: skip
        ours = config.build_algo()
        stock = stock_config(
            Path(folder) / "t", sampler, decisions, minibatch * options.preferences
        ).build_algo()
        times = {
            "sample": seconds(lambda: ours.env_runner.sample(), options.rounds),
            "train": seconds(ours.train, options.rounds),
            "stock_sample": seconds(lambda: stock.env_runner.sample(num_timesteps=decisions), 2),
            "stock_train": seconds(stock.train, 2),
        }
        batch = ours.env_runner.sample()
        update = {"num_epochs": 2, "minibatch_size": minibatch, "shuffle_batch_per_epoch": True}
        times["learner"] = seconds(
            lambda: ours.learner_group.update(batch=batch, timesteps={}, **update), options.rounds
        )
        bare = bare_epochs(ours.network().train(), batch[DEFAULT_MODULE_ID], minibatch, 2)
        times["bare"] = seconds(bare, options.rounds)
        for algorithm in (ours, stock):
            algorithm.stop()
    ray.shutdown()
    for name in ("sample", "train", "stock_sample", "stock_train"):
        result[f"{name}_decisions_per_s"] = round(decisions / times[name][0])
        result[f"{name}_decisions_per_cpu_s"] = round(decisions / times[name][1])
    for name in ("sample", "train"):
        result[f"{name}_cpu_ratio"] = round(times[f"stock_{name}"][1] / times[name][1], 1)
        result[f"{name}_ratio"] = round(times[f"stock_{name}"][0] / times[name][0], 1)
    result["learner_over_bare"] = round(times["bare"][0] / times["learner"][0], 3)
    result["learner_over_bare_cpu"] = round(times["bare"][1] / times["learner"][1], 3)
    print(
        json.dumps(
            {name: round(v, 1) if isinstance(v, float) and v > 10 else v for name, v in result.items()}
        )
    )


if __name__ == "__main__":
    main()
