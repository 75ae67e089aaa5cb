"""What the pages on serving show runs as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.baselines.ridge import RidgePolicy
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.pool import ALL, read_pool_file
from serve import admin
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.serve.conftest import POOL
from tests.serve.local_server import serving
from tests.serve.upstream import UpstreamServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
SHOWN_URL = "localhost:8000"
BLOCKS = re.findall(r"(?:<!-- needs ([a-z ]+) -->\n)?```(bash|python)\n(.*?)```", PAGE, re.S)


def blocks(language: str, needs: str, contains: str) -> list[str]:
    return [text for need, kind, text in BLOCKS if (kind, need) == (language, needs) and contains in text]


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_every_block_is_run_by_a_test_below():
    run = [
        *blocks("bash", "", "curl "), *blocks("python", "", "httpx"), *blocks("python", "upstreams", "OpenAI"),
        *blocks("bash", "a registry", "serve.admin"), *blocks("bash", "", "serve.access.keys"),
        # tests/test_documentation.py takes the commands of the pipeline.
        *blocks("bash", "", "python -m pipeline"),
    ]  # fmt: skip
    assert sorted(run) == sorted(text for _, _, text in BLOCKS)


@pytest.mark.parametrize("block", blocks("bash", "", "curl "))
def test_a_curl_command_is_answered(endpoint, block):
    program = block.replace(SHOWN_URL, endpoint.removeprefix("http://")).replace("curl -s", "curl -sS --fail")
    done = subprocess.run(["bash", "-ec", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


@pytest.mark.parametrize("block", blocks("python", "", "httpx"))
def test_a_program_runs(endpoint, block):
    done = run_python(block.replace(f"http://{SHOWN_URL}", endpoint))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python", "upstreams", "OpenAI"))
def test_a_program_that_calls_models_runs(bundle_dir, block):
    with UpstreamServer() as upstream:
        upstreams = {model: {"base_url": upstream.url} for model in POOL.models}
        settings = ServeSettings.parse({"bundle": str(bundle_dir), "gateway": {"upstreams": upstreams}})
        with serving(Runtime.open(settings)) as url:
            done = run_python(block.replace(f"http://{SHOWN_URL}", url))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in POOL.models


@pytest.mark.parametrize(
    "command", [line for block in blocks("bash", "a registry", "serve.admin") for line in block.splitlines()]
)
def test_an_administrators_command_is_understood(command, monkeypatch):
    sent = []
    monkeypatch.setattr(admin, "_send", lambda asked: sent.append(asked) or 0)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "serve.admin"]
    assert admin.main(words[3:]) == 0
    assert sent[0].url == f"http://{SHOWN_URL}"


@pytest.mark.parametrize("block", blocks("bash", "", "serve.access.keys"))
def test_a_key_is_made(block):
    words = shlex.split(block)
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "sha256" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def example_bundle(tmp_path_factory, encoder):
    """A policy that predicts scores, over the pool that the README's example is of."""
    pool = read_pool_file(ROOT / "conf" / "pools" / "example.yaml").pool(ALL)
    answers_usd = pool.prices_per_token_usd[:, 1] * 200
    weights = np.random.default_rng(0).normal(
        scale=0.1, size=(encoder.identity.dimension + 1, len(pool.models))
    )
    policy = RidgePolicy(pool.models, weights, np.abs(weights))
    directory = tmp_path_factory.mktemp("example") / "policy"
    cost_model = CostModel(pool.prices_per_token_usd, 50.0, answers_usd)
    RouterBundle(policy, pool, encoder.identity, cost_model, tau_usd=0.003).save(directory)
    return directory


def shape(value: object, under: str = "") -> object:
    """Return a JSON value's fields and types; what is null may be a number and the other way round."""
    if isinstance(value, dict):
        return {key: shape(value[key], under or key) for key in sorted(value)}
    return "number or null" if value is None or under.startswith("expected") else type(value).__name__


def test_the_readmes_request_gets_an_answer_of_the_shown_shape(example_bundle):
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"```bash\nmake serve\n(curl .*?)```\n\n```json\n(.*?)```", readme, re.S)
    assert found, "the README shows how to ask for a decision"
    command, shown = found.groups()
    with serving(Runtime.open(ServeSettings.parse({"bundle": str(example_bundle)}))) as url:
        program = command.replace(SHOWN_URL, url.removeprefix("http://")).replace(
            "curl -s", "curl -sS --fail"
        )
        done = subprocess.run(["bash", "-ec", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer, expected = json.loads(done.stdout), json.loads(shown)
    assert shape(answer) == shape(expected)
    assert len(answer["decision_id"]) == len(expected["decision_id"])
