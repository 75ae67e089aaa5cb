"""What a submitted job is made of, and what is refused before one is sent; jobs that run: test_cluster.py."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE
from ray.job_submission import JobDetails, JobStatus, JobType
from ray.runtime_env import RuntimeEnv

from pipeline import submit
from pipeline.__main__ import main
from pipeline.compose import load_config
from pipeline.embed import store_path
from pipeline.lock import installed_closure, read_lock
from pipeline.submit import Submission, checked_overrides, runtime_env, stage_working_dir
from policies.errors import InputError
from tests.pipeline.nodes import free_port

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_embedding_store_lies_beside_a_run_whose_folder_is_given_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = checked_overrides(["run.dir=/shared/runs/mine"])
    assert store_path(load_config(sent)) == "/shared/runs/embeddings"
    sent = checked_overrides(["run.dir=/shared/runs/mine", "run.root=/vectors"])
    assert store_path(load_config(sent)) == "/vectors/embeddings"


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


def test_jobs_install_the_lock_file_but_not_ray(tmp_path):
    """Ray is the cluster's; builds of PyTorch (`+cpu`, CUDA libraries) are the nodes' matter."""
    wanted = RuntimeEnv(**runtime_env(Submission("http://127.0.0.1:1", "embed"), str(tmp_path)))
    pinned = wanted.pip_config()["packages"]
    assert sorted([*pinned, f"ray=={ray.__version__}"]) == sorted(read_lock())
    assert not [line for line in pinned if "+" in line or line.startswith(("nvidia-", "triton"))]


def test_without_packages_only_files_and_variables_are_sent(tmp_path):
    submission = Submission("http://127.0.0.1:1", "embed", install=False, environment={"AWS_PROFILE": "data"})
    wanted = RuntimeEnv(**runtime_env(submission, str(tmp_path)))
    assert wanted.to_dict() == {"working_dir": str(tmp_path), "env_vars": {"AWS_PROFILE": "data"}}


def test_a_job_with_packages_needs_the_lock_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.submit.LOCK_FILE", tmp_path / "requirements.lock")
    with pytest.raises(InputError, match=r"missing; write it with `make lock`, or submit with --no-env"):
        runtime_env(Submission("http://127.0.0.1:1", "embed"), str(tmp_path))


def test_the_checkouts_own_files_travel_and_fit_a_package_of_ray(tmp_path):
    stage_working_dir(tmp_path)
    sent = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"pipeline/submit.py", "policies/base.py", "serve/app.py", "conf/config.yaml"} <= sent
    assert not [
        name for name in sent if name.startswith((".venv/", ".git/", "runs/")) or "__pycache__" in name
    ]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < GCS_STORAGE_MAX_SIZE


def test_the_lock_file_satisfies_every_dependency_of_the_project():
    import tomllib

    locked = {Requirement(line).name: line.partition("==")[2] for line in read_lock()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["openvino"] + extras["onnx"] + extras["cloud"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[wanted.name]), line


def test_the_closure_holds_indirect_dependencies_at_installed_versions():
    closure = installed_closure()
    assert closure["starlette"] == version("starlette")  # fastapi's, which is Ray Serve's
    assert closure["torch"] == version("torch").partition("+")[0]


class BreakingConnection:
    """A client of a job that succeeded, whose first questions about it find nobody, as when the head restarts."""

    def __init__(self, silent):
        self.silent = silent

    async def tail_job_logs(self, job_id):
        yield "all that it printed\n"

    def get_job_info(self, job_id):
        self.silent -= 1
        if self.silent >= 0:
            raise ConnectionError("connection refused")
        return JobDetails(
            submission_id=job_id,
            type=JobType.SUBMISSION,
            status=JobStatus.SUCCEEDED,
            driver_exit_code=0,
            entrypoint="",
        )


def test_a_connection_lost_at_the_jobs_end_is_taken_up_again(capsys):
    assert submit._follow_to_end(BreakingConnection(silent=1), "http://head:8265", "job-1") == 0
    printed = capsys.readouterr()
    assert printed.out == "all that it printed\n", "the log is shown once"
    assert "job-1: succeeded, exit code 0" in printed.err


def test_a_reader_that_has_seen_enough_does_not_change_the_jobs_code(tmp_path):
    """As with `| head -1`: the pipe is closed before the log is printed."""
    script = (
        "import sys, time; from tests.pipeline.test_submit import BreakingConnection; from pipeline import submit\n"
        "time.sleep(0.5)\n"
        "sys.exit(submit._follow_to_end(BreakingConnection(silent=0), 'http://head:8265', 'job-1'))"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(60) == 0, told
    assert told.endswith("job-1: succeeded, exit code 0\n")


def test_a_connection_that_stays_lost_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr(submit, "PATIENCE_S", 0.0)
    assert submit._follow_to_end(BreakingConnection(silent=100), "http://head:8265", "job-1") == 1
    assert "connection refused); the job may still run. Follow it again: python -m pipeline attach" in (
        capsys.readouterr().err
    )
