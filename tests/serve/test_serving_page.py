"""What the pages on serving show runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
