"""What pages show of an endpoint runs as it stands there: curls, and programs that ask it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from policies.baselines.ridge import RidgePolicy
from policies.bundle import RouterBundle
from policies.costs import CostModel
from policies.pool import ALL, read_pool_file
from serve.runtime import Runtime
from serve.settings import ServeSettings
from tests.documented import BLOCKS, ROOT, SHOWN
from tests.serve.conftest import POOL
from tests.serve.local_server import serving

SHOWN_URL = "localhost:8000"
ELSEWHERE = ("README.md", "docs/tutorials/serve.md")
"""Pages whose curls ask an endpoint of their own: below, and in tests/test_documented_commands.py."""

CURLS = [c for c in SHOWN if c.words[0] == "curl" and c.page not in ELSEWHERE]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]


def ask(command: str, url: str) -> str:
    """Run a curl command as it stands, with the address of an endpoint that runs; return what is printed."""
    program = command.replace(SHOWN_URL, url.removeprefix("http://")).replace("curl -s", "curl -sS --fail")
    done = subprocess.run(["bash", "-ec", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pages_on_serving_show_what_is_run_here():
    assert {command.page for command in CURLS} >= {"docs/serving.md", "docs/deploy.md"}
    assert {block.page for block in PROGRAMS} >= {"docs/serving.md", "docs/gateway.md"}


@pytest.mark.parametrize("command", CURLS, ids=str)
def test_a_curl_command_is_answered(endpoint, command):
    assert ask(command.text, endpoint).startswith("{")


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_program_runs(endpoint, upstream, block):
    program = block.text.replace(f"http://{SHOWN_URL}", endpoint)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if "chat.completions" in block.text:
        assert set(done.stdout.split()) & set(POOL.models)
        assert len(upstream.seen) == 1


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
        answer, expected = json.loads(ask(command, url)), json.loads(shown)
    assert shape(answer) == shape(expected)
    assert len(answer["decision_id"]) == len(expected["decision_id"])
