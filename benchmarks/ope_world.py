"""A simulated world with a known truth: prompts, models, outcomes, logging policies and policies to compare.

A prompt has an embedding and a task; a model's chance of a right answer is a logistic function of both plus
a part that no embedding explains; costs are log-normal around the model's price. Scores are drawn anew for
every event, so the expected reward of any policy is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.preference import dial_grid, reward

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

N_TASKS = 8
DIAL_STRIDE = 4
"""Every fourth setting of the dial, w_cost = 0, 0.2 .. 1: as telling as all 21 and much faster."""

LOGGING = ("uniform", "epsilon_greedy", "cheap_softmax")


@dataclass(frozen=True)
class World:
    """``n`` prompts and ``K`` models with their expected scores (n, K) and their costs in USD per call (n,
    K)."""

    embeddings: FloatArray
    tasks: IntArray
    expected_scores: FloatArray
    costs_usd: FloatArray
    tau_usd: float

    @property
    def n_models(self) -> int:
        return self.expected_scores.shape[1]

    def expected_rewards(self, w_cost: float) -> FloatArray:
        """Return the expected reward of every model on every prompt, shape (n, K)."""
        preference = np.broadcast_to([1.0 - w_cost, w_cost], (len(self.tasks), 2))
        return reward(self.expected_scores, self.costs_usd, preference, self.tau_usd)

    def value(self, policies: FloatArray, w_cost: FloatArray) -> float:
        """Return the true mean reward of a policy, shape (S, n, K), over the dial settings."""
        return float(
            np.mean([(p * self.expected_rewards(w)).sum(1).mean() for p, w in zip(policies, w_cost)])
        )


@dataclass(frozen=True)
class Log:
    """Events on prompts ``rows`` of the world: logged model, its propensity, drawn score and cost in USD."""

    rows: IntArray
    actions: IntArray
    propensities: FloatArray
    scores: FloatArray
    costs_usd: FloatArray


def make_world(rng: np.random.Generator, n_prompts: int = 20_000, n_models: int = 11, dim: int = 16) -> World:
    tasks = rng.integers(N_TASKS, size=n_prompts)
    centres = rng.normal(size=(N_TASKS, dim))
    x = centres[tasks] + rng.normal(size=(n_prompts, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    price = np.sort(rng.lognormal(0.0, 1.0, n_models))
    skill = 0.3 * np.log(price) + rng.normal(0.0, 0.3, n_models)
    hardness = rng.normal(0.0, 1.0, (n_prompts, 1)) + x @ rng.normal(0.0, 2.0, (dim, 1))
    taste = 1.5 * x @ rng.normal(size=(dim, n_models))
    unexplained = rng.normal(0.0, 0.7, (n_prompts, n_models))
    q = 1.0 / (1.0 + np.exp(-(0.2 + skill + taste + hardness + unexplained)))
    lengths = rng.lognormal(0.0, 0.5, (n_prompts, 1))
    costs = 1e-4 * price * lengths * rng.lognormal(0.0, 0.2, (n_prompts, n_models))
    return World(x, tasks, q, costs, float(np.quantile(costs, 0.95)))


def logging_probabilities(world: World, kind: str) -> FloatArray:
    """Return the logging policy's probabilities, shape (n, K)."""
    n, k = world.expected_scores.shape
    if kind == "uniform":
        return np.full((n, k), 1.0 / k)
    if kind == "epsilon_greedy":
        best = int(world.expected_rewards(0.3).mean(axis=0).argmax())
        p = np.full((n, k), 0.3 / k)
        p[:, best] += 0.7
        return p
    if kind == "cheap_softmax":
        logits = -1.0 * np.log(world.costs_usd.mean(axis=0))
        p = np.exp(logits - logits.max())
        return np.tile(p / p.sum(), (n, 1))
    raise ValueError(f"logging policy {kind!r}: allowed are {LOGGING}")


def draw_log(world: World, probabilities: FloatArray, n_events: int, rng: np.random.Generator) -> Log:
    """Draw events: a prompt with replacement, a model from ``probabilities``, a score of 0 or 1."""
    rows = rng.integers(len(world.tasks), size=n_events)
    p = probabilities[rows]
    actions = (rng.random((n_events, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=world.n_models - 1)
    at = np.arange(n_events)
    scores = (rng.random(n_events) < world.expected_scores[rows, actions]).astype(np.float64)
    return Log(rows, actions, p[at, actions], scores, world.costs_usd[rows, actions])


def policy_pair(
    world: World, gap: float, disagreement: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (incumbent, candidate, w_cost): deterministic policies (S, n, K) whose true mean rewards differ
    by ``gap``.

    They disagree on a random share ``disagreement`` of the prompts. There the candidate takes a better or a
    worse model than the incumbent; the share of better ones is set so that the gap is met (to within one
    prompt's worth).

    Raises:
        ValueError: the gap cannot be reached with that disagreement.
    """
    w_cost = dial_grid()[::DIAL_STRIDE]
    n, k = world.expected_scores.shape
    noise = rng.normal(0.0, 0.3, (n, k))
    differ = rng.random(n) < disagreement
    order = rng.permutation(np.flatnonzero(differ))
    incumbent = np.empty((len(w_cost), n), dtype=np.int64)
    better, worse = incumbent.copy(), incumbent.copy()
    up, down = np.zeros(n), np.zeros(n)
    rows = np.arange(n)
    for s, w in enumerate(w_cost):
        expected = world.expected_rewards(w)
        guess = expected + (1.0 - w) * noise
        incumbent[s] = guess.argmax(axis=1)
        others = guess.copy()
        others[rows, incumbent[s]] = -np.inf
        second = others.argmax(axis=1)
        better[s], worse[s] = expected.argmax(axis=1), second
        now = expected[rows, incumbent[s]]
        up += (expected[rows, better[s]] - now) / len(w_cost)
        down += (expected[rows, worse[s]] - now) / len(w_cost)
    # The first t prompts of the order take the better model, the rest the worse: the gap rises with t.
    gains = np.concatenate([[0.0], np.cumsum(up[order])]) / n
    losses = np.concatenate([np.cumsum(down[order][::-1])[::-1], [0.0]]) / n
    reachable = gains + losses
    t = int(np.abs(reachable - gap).argmin())
    if abs(reachable[t] - gap) > 1e-3:
        raise ValueError(f"gap {gap} is out of reach: {reachable.min():.4f}..{reachable.max():.4f}")
    candidate = incumbent.copy()
    candidate[:, order[:t]] = better[:, order[:t]]
    candidate[:, order[t:]] = worse[:, order[t:]]
    eye = np.eye(k)
    return eye[incumbent], eye[candidate], w_cost
