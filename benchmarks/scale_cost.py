"""From measured runs to what large corpora cost: fits, nodes and dollars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

MEBIBYTE = 2**20


def fitted(runs: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float | None] | None:
    """Fit ``cpu_s = start + rate * n ** exponent`` to a stage's runs, on the logarithm of the seconds.

    Returns:
        ``start_cpu_s``, ``exponent`` with ``exponent_se`` (None without a run to spare) and ``cpu_s_at_largest``,
        what the law gives beyond the start at the ``largest`` size; ``cpu_s_per_million``, the slope between the two
        largest sizes, ``wall_s_per_million`` likewise, and ``bytes_per_prompt`` and ``start_mb`` of the memory's
        peak. None with fewer than three sizes.
    """
    own = [run for run in runs if run["stage"] == stage]
    sizes = sorted({run["prompts"] for run in own})
    if len(sizes) < 3:
        return None
    n = np.array([run["prompts"] for run in own], dtype=np.float64)
    log_s = np.log([run["cpu_s"] for run in own])
    mean = {
        name: np.array([np.mean([run[name] for run in own if run["prompts"] == size]) for size in sizes])
        for name in ("cpu_s", "wall_s", "peak_mb")
    }
    step = sizes[-1] - sizes[-2]
    rise = {name: float(values[-1] - values[-2]) for name, values in mean.items()}
    start = max(float(mean["cpu_s"][0]), 1e-3)
    guess = [math.log(start), math.log(max(float(mean["cpu_s"][-1]) - start, 1e-3)), 1.0]

    def residuals(p: np.ndarray) -> np.ndarray:
        # The rate is that of the largest size, which decouples it from the exponent.
        return np.logaddexp(p[0], p[1] + p[2] * np.log(n / sizes[-1])) - log_s

    found = least_squares(residuals, guess)
    spare = len(own) - 3
    error = None
    if spare > 0:
        covariance = np.linalg.pinv(found.jac.T @ found.jac) * (2.0 * found.cost / spare)
        error = float(np.sqrt(covariance[2, 2]))
    bytes_per_prompt = rise["peak_mb"] * MEBIBYTE / step
    return {
        "start_cpu_s": float(np.exp(found.x[0])),
        "exponent": float(found.x[2]),
        "exponent_se": error,
        "cpu_s_at_largest": float(np.exp(found.x[1])),
        "cpu_s_per_million": rise["cpu_s"] / step * 1e6,
        "wall_s_per_million": rise["wall_s"] / step * 1e6,
        "bytes_per_prompt": bytes_per_prompt,
        "start_mb": float(mean["peak_mb"][-1]) - bytes_per_prompt * sizes[-1] / MEBIBYTE,
        "largest": float(sizes[-1]),
    }


@dataclass(frozen=True)
class Assumptions:
    """What the plan takes as given; every figure is one that a reader can replace.

    Attributes:
        node: an instance type.
        node_cores: its cores, each taken to be as fast as one of the machine that was measured.
        node_memory_gb: its memory.
        node_usd_per_h: its price on demand.
        corpus: prompts of the corpus.
        sample: prompts of it that are learned from and measured on.
        hours: time in which the corpus is to be done.
        requests_per_s: what the endpoint is to answer.
        embed_bytes_per_prompt: of the driver's memory, as ``benchmarks.embed_memory`` measures it.
        replica_requests_per_s: measured: of one replica with its proxy, prompts known (docs/operations.md).
        replica_cores: cores that this took.
        known_share: share of requests whose prompt's vector is remembered.
        utilisation: share of the cores' time that is planned with.
    """

    node: str = "c7a.2xlarge"
    node_cores: int = 8
    node_memory_gb: float = 16.0
    node_usd_per_h: float = 0.41056
    corpus: int = 1_000_000_000
    sample: int = 1_000_000
    hours: float = 24.0
    requests_per_s: int = 100_000
    embed_bytes_per_prompt: float = 100.0
    replica_requests_per_s: float = 544.0
    replica_cores: float = 2.0
    known_share: float = 0.0
    utilisation: float = 0.6


@dataclass(frozen=True)
class Need:
    """What a piece of work takes.

    Attributes:
        core_h: CPU time in hours.
        nodes: nodes that work at once.
        usd: of the whole work; of an hour for what runs on.
    """

    core_h: float
    nodes: int
    usd: float


def corpus_need(fit: Mapping[str, Any], prompts: int, given: Assumptions) -> Need:
    """Return what a stage that handles prompts independently takes: its rate at the largest size measured."""
    core_h = fit["cpu_s_per_million"] * prompts / 1e6 / 3600.0
    return Need(
        core_h, _nodes(core_h / given.hours, given), core_h / given.utilisation * _core_usd_per_h(given)
    )


def cpu_s_beyond_start(fit: Mapping[str, Any], prompts: int) -> float:
    """Return a stage's CPU seconds without its start-up, by the fitted law."""
    return float(fit["cpu_s_at_largest"] * (prompts / fit["largest"]) ** fit["exponent"])


def sample_need(fit: Mapping[str, Any], prompts: int, given: Assumptions) -> Need:
    """Return what a stage of one process takes, by the fitted power law; it keeps one node while it runs."""
    core_h = (fit["start_cpu_s"] + cpu_s_beyond_start(fit, prompts)) / 3600.0
    return Need(core_h, 1, core_h * given.node_usd_per_h)


def serving_need(fit_embed: Mapping[str, Any], given: Assumptions) -> Need:
    """Return what the endpoint takes: deciding, and encoding the prompts that are new."""
    deciding = given.replica_cores / given.replica_requests_per_s
    encoding = (1.0 - given.known_share) * fit_embed["cpu_s_per_million"] / 1e6
    cores = given.requests_per_s * (deciding + encoding)
    nodes = _nodes(cores, given)
    return Need(cores, nodes, nodes * given.node_usd_per_h)


def most_prompts(fit: Mapping[str, Any], given: Assumptions) -> float:
    """Return how many prompts one job can take on a node, by its memory; infinite where memory stays flat."""
    if fit["bytes_per_prompt"] <= 0.0:
        return math.inf
    free = 0.8 * given.node_memory_gb * 2**30 - fit["start_mb"] * MEBIBYTE
    return free / fit["bytes_per_prompt"]


def _nodes(cores: float, given: Assumptions) -> int:
    return math.ceil(cores / given.utilisation / given.node_cores)


def _core_usd_per_h(given: Assumptions) -> float:
    return given.node_usd_per_h / given.node_cores
