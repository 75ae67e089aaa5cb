"""A real policy artifact, its real encoder, and the real endpoint."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.barp.network import BarpNetwork, NetworkShape
from policies.barp.policy import BarpPolicy
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.encoder import Encoder, load_encoder
from policies.pool import ModelPool, ModelSpec
from tests.serve.upstream import UpstreamServer

POOL = ModelPool(
    "three",
    (
        ModelSpec("large", 3.0, 15.0, context_window_tokens=100_000),
        ModelSpec("small", 0.1, 0.4, context_window_tokens=1_000),
        ModelSpec("tiny", 0.05, 0.1, context_window_tokens=100, tags=("text",)),
    ),
)
MAX_PROMPT_CHARS = 500_000


def untrained_barp() -> BarpPolicy:
    """A network with random weights, large enough ones that prompts and preferences move its decisions."""
    torch.manual_seed(0)
    network = BarpNetwork(
        NetworkShape(embedding_dim=384, n_models=3, head="mlp", hidden=(32,), preference_dim=8, dropout=0.0)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0)
    return BarpPolicy(POOL.models, network)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("minilm", "torch-fp32", 64, 1024)


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    directory = tmp_path_factory.mktemp("served") / "policy"
    output_costs_usd = POOL.prices_per_token_usd[:, 1] * 200
    cost_model = CostModel(POOL.prices_per_token_usd, 50.0, np.asarray(output_costs_usd))
    RouterBundle(untrained_barp(), POOL, encoder.identity, cost_model, tau_usd=0.01).save(directory)
    return directory


@pytest.fixture(scope="session")
def bundle(bundle_dir: Path) -> RouterBundle:
    return RouterBundle.load(bundle_dir)


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[UpstreamServer]:
    """What all models of the pool are called at."""
    with UpstreamServer() as server:
        yield server


@pytest.fixture
def upstream(upstream_server: UpstreamServer) -> UpstreamServer:
    """The same, with nothing to remember."""
    upstream_server.reset()
    return upstream_server


@pytest.fixture(scope="session")
def endpoint(ray_session: None, bundle_dir: Path, upstream_server: UpstreamServer) -> Iterator[str]:
    """Base URL of the application, running on Ray Serve."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serve.app import APP_NAME, build

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    arguments = {
        "bundle": str(bundle_dir),
        "max_prompt_chars": MAX_PROMPT_CHARS,
        "num_cpus_per_replica": 0.5,
        "gateway": {"upstreams": {model: {"base_url": upstream_server.url} for model in POOL.models}},
    }
    serve.run(build(arguments), name=APP_NAME, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
