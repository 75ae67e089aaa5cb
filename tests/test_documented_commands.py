"""The pipeline's commands of README, quickstart and tutorials run in the order in which they stand, on small tables.

They run in one folder, as for somebody who reads on: what a command makes is there for the next. What the reader brings
(tables, answers of a new model) is made here. Commands get further overrides that make them small.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipeline.__main__ import GATE_EXIT_CODES, main
from pipeline.compose import OVERRIDES_FILE
from pipeline.example import generate_example
from tests.documented import BLOCKS, QUICKSTART, README, ROOT, SHOWN, WALKED, walked
from tests.pipeline.test_train_llm_bandit import QUICK

SUBMIT, SEARCH, ONBOARD, SERVE = (
    f"docs/tutorials/{name}.md" for name in ("submit", "search", "onboard", "serve")
)
PAGES = (QUICKSTART, README, SEARCH, SUBMIT, ONBOARD, SERVE)
GOES_ON = {SEARCH: README, ONBOARD: SUBMIT, SERVE: QUICKSTART}
"""From where a page goes on; others start anew, in the same folders."""

N_PROMPTS = 200
BACKEND = "encoder.backend=torch-fp32"
SMALL_RUN = (
    BACKEND,
    "policy.members=2",
    "policy.topics=4",
    "policy.logged.epochs=3",
    "policy.simulated_online.epochs=3",
    "evaluate.baselines=[]",
    "evaluate.bootstrap_samples=20",
)
SMALL = {
    "run": SMALL_RUN,
    "train": ("policy.max_epochs=2",),
    "tune": ("tune.num_samples=2", "tune.max_epochs=2", "tune.grace_epochs=1"),
}
"""Overrides by stage."""


def bring_tables():
    """Write the files that README and tutorials take as given; texts are those of the embedded example."""
    pool = yaml.safe_load((ROOT / "conf" / "pools" / "example.yaml").read_text())["models"]
    models = {name: spec for name, spec in pool.items() if spec.get("kind") != "tool"}
    Path("pool.yaml").write_text(yaml.safe_dump({"models": models}))
    prices = {
        name: (spec["input_price_per_mtok_usd"], spec["output_price_per_mtok_usd"])
        for name, spec in models.items()
    }
    example = generate_example(N_PROMPTS, 0, prices=prices)
    families = example.prompts["task"].unique().sort()
    tasks = {families[0]: "law", families[1]: "history"}
    example.prompts.with_columns(pl.col("task").replace(tasks)).write_parquet("prompts.parquet")
    example.prompts.select("prompt_id", "prompt").head(20).write_parquet("new_prompts.parquet")
    example.outcomes.write_parquet("outcomes.parquet")
    called = example.outcomes.sample(fraction=1.0, shuffle=True, seed=0).unique(
        "prompt_id", keep="first", maintain_order=True
    )
    log = called.with_columns(
        event_id="prompt_id",
        timestamp=pl.datetime(2026, 1, 1, time_zone="UTC"),
        w_quality=pl.lit(0.7),
        w_cost=pl.lit(0.3),
        eligible=pl.lit(list(models)),
        propensity=pl.lit(1.0 / len(models)),
        policy_version=pl.lit("uniform"),
    )
    asked = re.search(r"a feedback log, [^`]*`([^`]*)`", (ROOT / SUBMIT).read_text())
    assert asked, "the tutorial names the columns of a log"
    log.select(re.findall(r"\w+", asked.group(1))).write_parquet("log.parquet")


def bring_champion():
    shutil.copytree("runs/mine", "runs/champion")


def bring_answers():
    """Write what the new model answered to the prompts that `onboard select` named."""
    asked = pl.read_parquet("runs/mine/onboard/aurora-9b/prompts.parquet")
    assert asked.height == 50
    scores = pl.Series(np.random.default_rng(0).uniform(size=asked.height))
    answers = asked.select("prompt_id", model=pl.lit("aurora-9b"), score=scores, cost_usd=pl.lit(1e-4))
    answers.write_parquet("answers.parquet")


def bring_llm_bandit():
    """Train a run of the kind that the tutorial goes on from, and write its pool file with one model more."""
    forget_small_policy("mine")
    assert main(["train", "run=runs/mine", *QUICK, "policy.ppo.iterations=0"]) == 0
    (shown,) = [block.text for block in BLOCKS if (block.page, block.language) == (ONBOARD, "yaml")]
    pool = yaml.safe_load(shown)
    pool["models"]["another"] = {"input_price_per_mtok_usd": 1.0, "output_price_per_mtok_usd": 2.0}
    Path("new.yaml").write_text(yaml.safe_dump(pool))


def forget_small_policy(run):
    """Take the policy's small settings, which the reader does not give, from what the run goes on with."""
    path = Path("runs") / run / OVERRIDES_FILE
    kept = [line for line in yaml.safe_load(path.read_text()) if not line.startswith("policy.")]
    path.write_text(yaml.safe_dump(kept))


BEFORE = {
    (QUICKSTART, "train"): lambda: forget_small_policy("example"),
    (README, "run"): bring_tables,
    (SUBMIT, "run"): bring_tables,
    (SEARCH, "evaluate"): bring_champion,
    (ONBOARD, "select"): bring_llm_bandit,
    (ONBOARD, "fit"): bring_answers,
}
"""What the reader does before the first command of a kind on a page."""


def run_page(page):
    """Run the commands of a page in the working folder."""
    waiting = {kind: bring for (of, kind), bring in BEFORE.items() if of == page}
    earlier = {command.text for command in walked(GOES_ON[page])} if page in GOES_ON else set()
    for command in walked(page):
        if command.text in earlier:
            continue  # Nothing has changed since.
        stage, *words = command.words[3:]
        for kind in {stage, words[0]} & waiting.keys():
            waiting.pop(kind)()
        small = SMALL.get(stage, ())
        if page == QUICKSTART and stage == "run":
            small = (*small, f"data.example.n_prompts={N_PROMPTS}")
        code = main([stage, *words, *small])
        expected = 0
        if "evaluate.gate=true" in words:
            metrics = json.loads(Path("runs/mine/metrics.json").read_text())
            expected = GATE_EXIT_CODES[metrics["verdict"]["decision"]]
        assert code == expected, f"{command}: {command.text}"
        for key, _, value in (word.partition("=") for word in words):
            if key in ("output", "run.dir"):
                assert Path(value).exists(), f"{command}: {value}"
    assert not waiting


@pytest.fixture(scope="module")
def walk(ray_session, tmp_path_factory):
    """Return what runs a page's commands, those of the page that it goes on from first; each page once."""
    folder = tmp_path_factory.mktemp("reader")
    done, failed = set(), set()

    def through(page: str) -> Path:
        assert page not in failed, f"{page}: its commands failed before"
        if page not in done:
            if page in GOES_ON:
                through(GOES_ON[page])
            failed.add(page)  # unless it comes to the end
            here = Path.cwd()
            os.chdir(folder)
            try:
                run_page(page)
            finally:
                os.chdir(here)
            failed.remove(page)
            done.add(page)
        return folder

    return through


def test_every_page_of_instructions_is_walked():
    assert set(PAGES) == set(WALKED)


@pytest.mark.parametrize("page", [page for page in PAGES if walked(page)])
def test_the_commands_of_a_page_run(walk, page):
    walk(page)


def test_make_run_is_a_command_of_the_quickstart():
    # Under another make, as in `make test`, it would say which directory it leaves.
    dry = ["make", "--no-print-directory", "-n", "run"]
    made = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    called = made.splitlines()[-1].removeprefix(".venv/bin/")
    assert called in {command.text for command in walked(QUICKSTART)}


def test_the_endpoint_of_the_tutorial_answers(walk):
    folder = walk(SERVE)
    serve, *_ = [c for c in SHOWN if c.page == SERVE and c.words[3:4] == ["serve"]]
    curls = [c for c in SHOWN if c.page == SERVE and c.words[0] == "curl"]
    assert curls
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # A Ray of its own: the session's may serve another endpoint.
    small = [f"serve.port={port}", BACKEND, "cluster.num_cpus=1", "cluster.object_store_mb=100"]
    log = folder / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *serve.words[1:], *small],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=stream,
        )
    try:
        end = time.monotonic() + 240
        while f"serving on http://127.0.0.1:{port}" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        for curl in curls:
            program = curl.text.replace("localhost:8000", f"127.0.0.1:{port}").replace(
                "curl -s", "curl -sS --fail"
            )
            answer = subprocess.run(["bash", "-ec", program], capture_output=True, text=True, timeout=60)
            assert answer.returncode == 0, answer.stderr
            assert json.loads(answer.stdout)["release"] == "champion"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.terminate()  # it takes its Ray along
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
