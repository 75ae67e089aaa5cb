"""Jobs on a cluster of two nodes started with `ray start`, through the command line as a user meets it."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline import ingest
from pipeline.__main__ import main
from pipeline.compose import load_config, record_config
from pipeline.embedding_table import read_embeddings
from pipeline.layout import RunLayout
from pipeline.lock import installed_closure, read_lock
from pipeline.submit import checked_overrides, job_requirements, stage_working_dir
from policies.errors import InputError
from tests.pipeline.nodes import ENVIRONMENT, Relay, free_port, kill_all_of, start_node, wait_until

ROOT = Path(__file__).resolve().parents[2]


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def address():
    """Dashboard of a head that has no CPU, so that work goes to the second node."""
    folder = Path(tempfile.mkdtemp(prefix="tw-"))  # short: socket paths below it are limited to 107 bytes
    gcs, dashboard = free_port(), free_port()
    try:
        start_node(
            folder,
            "--head",
            f"--port={gcs}",
            "--num-cpus=0",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--temp-dir={folder}",
        )
        url = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: answers(f"{url}/api/version"), (folder / "ray.log").read_text)
        start_node(folder, f"--address=127.0.0.1:{gcs}", "--num-cpus=1")
        yield url
    finally:
        kill_all_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def tradewind(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        timeout=240,
        check=False,
    )


def ingested(folder, n_prompts):
    overrides = [f"run.root={folder}", "run.name=job", f"data.example.n_prompts={n_prompts}"]
    config = load_config(overrides)
    record_config(config, overrides)
    ingest.run(config)
    return RunLayout.of(config)


def test_a_stage_runs_on_the_second_node_and_its_log_comes_back(address, tmp_path):
    layout = ingested(tmp_path, 200)
    done = tradewind("submit", address, "embed", f"run={layout.root}", "--no-env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "embed: 200 prompts" in done.stdout
    assert "succeeded, exit code 0" in done.stderr
    assert len(read_embeddings(layout.embeddings)[0]) == 200


def test_the_jobs_exit_code_is_returned(address, tmp_path):
    done = tradewind(
        "submit",
        address,
        "ingest",
        "data=tables",
        "data.prompts=missing.parquet",
        "data.outcomes=missing.parquet",
        f"run.dir={tmp_path}/run",
        "--no-env",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    # Relative paths are those of the caller, not of the job's copy of the checkout.
    assert f"error: {tmp_path}/missing.parquet: no such file" in done.stdout


def interrupt(arguments, answer, *, after, meanwhile=lambda: None):
    """Run a command on a terminal, press Ctrl-C once ``after`` was printed, answer, and return (code, output).

    ``meanwhile`` is called in between.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
    )
    printed = ""
    assert process.stdout is not None
    while after not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    meanwhile()
    process.send_signal(signal.SIGINT)
    os.write(master, f"{answer}\n".encode())
    rest, _ = process.communicate(timeout=120)
    os.close(master)
    os.close(slave)
    return process.returncode, printed + rest


def test_ctrl_c_leaves_the_job_running_or_stops_it(address, tmp_path):
    layout = ingested(tmp_path, 5000)
    arguments = ["submit", address, "embed", f"run={layout.root}", "encoder.block_rows=64", "--no-env"]
    code, printed = interrupt(arguments, "n", after="embed: 5000 prompts")
    assert code == 130
    follow = re.search(r"left running\. Follow it again: python -m pipeline (attach \S+ \S+)", printed)
    assert follow, printed
    relay = Relay(int(address.rpartition(":")[2]))
    attach = ["attach", f"http://127.0.0.1:{relay.port}", follow.group(1).split()[2]]

    def lose_connection():
        relay.cut()
        wait_until(lambda: relay.n_open > 0, lambda: "the client did not come back")
        time.sleep(2)  # time to show all again, if it would

    code, printed = interrupt(attach, "y", after="embed: 5000 prompts", meanwhile=lose_connection)
    relay.close()
    assert code == 130
    assert printed.count("embed: 5000 prompts") == 1
    assert printed.splitlines()[-1].endswith(": stopped"), printed
    assert not layout.embeddings.exists()


def test_a_job_that_is_not_there_is_named_with_those_that_are(address):
    done = tradewind("attach", address, "raysubmit_none")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: raysubmit_none: no such job at {address}; there are: ")


def test_an_address_where_nothing_answers_is_an_input_error(capsys):
    port = free_port()
    assert main(["submit", f"http://127.0.0.1:{port}", "embed", "--no-env"]) == 2
    assert f"error: http://127.0.0.1:{port}: no Ray job server" in capsys.readouterr().err


def test_a_misspelt_key_stops_before_the_cluster_is_asked(capsys):
    assert main(["submit", "http://127.0.0.1:1", "embed", "encoder.batch_token=3"]) == 2
    assert "unknown key; did you mean 'encoder.batch_tokens'?" in capsys.readouterr().err


def test_paths_are_absolute_and_the_default_root_is_spelt_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checked_overrides(["pool=conf/mine.yaml", "output=out.parquet"]) == [
        f"run.root={tmp_path}/runs",
        "pool=file",
        f"pool.path={tmp_path}/conf/mine.yaml",
        f"output={tmp_path}/out.parquet",
    ]


def test_a_run_that_only_the_cluster_sees_is_left_to_the_job():
    overrides = ["run=/nowhere/on/this/machine", "route.decision=sample"]
    assert checked_overrides(overrides) == overrides


def test_a_relative_path_beside_such_a_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.parquet").touch()
    with pytest.raises(InputError, match=r"data\.prompts=new\.parquet: a relative path"):
        checked_overrides(["run=/nowhere/on/this/machine", "data.prompts=new.parquet"])


def test_what_git_ignores_does_not_travel(tmp_path):
    checkout, target = tmp_path / "checkout", tmp_path / "target"
    for name in ("pipeline/a.py", "pipeline/new.py", "runs/big.parquet", ".venv/lib.py", ".gitignore"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("runs/\n.venv/\n" if name == ".gitignore" else name)
    git = ["git", "-C", checkout]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "pipeline/a.py"], check=True)
    assert stage_working_dir(target, checkout) == 3
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {"pipeline/a.py", "pipeline/new.py", ".gitignore"}


def test_without_git_the_packages_travel(tmp_path):
    for name in ("pipeline/a.py", "conf/b.yaml", "other/c.py", "pipeline/__pycache__/a.pyc"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).touch()
    assert stage_working_dir(tmp_path / "target", tmp_path / "checkout") == 2


def test_jobs_install_the_lock_file_but_not_ray():
    names = [Requirement(line).name for line in job_requirements()]
    assert "ray" not in names
    assert {"torch", "polars", "mlflow"} <= set(names)


def test_the_lock_file_satisfies_every_dependency_of_the_project():
    import tomllib

    locked = {Requirement(line).name: line.partition("==")[2] for line in read_lock()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["openvino"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[wanted.name]), line


def test_the_closure_holds_indirect_dependencies_at_installed_versions():
    closure = installed_closure()
    assert closure["starlette"] == version("starlette")  # fastapi's, which is Ray Serve's
    assert closure["torch"] == version("torch").partition("+")[0]
