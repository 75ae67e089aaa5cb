"""Sending a stage to a Ray cluster as a job, and following a job that is there.

The job's working directory is what git would track of this checkout: no environment, runs or data travel. Paths are
made absolute as of here, because a job runs in a copy of the checkout that goes with it; nodes must see them (a
shared file system, or a URI). The command returns the exit code of the job's own process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from pipeline.compose import CONF_DIR, absolute_overrides, load_config
from pipeline.lock import LOCK_FILE, read_lock
from policies.errors import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CHECKOUT = CONF_DIR.parent
PACKAGES = ("pipeline", "policies", "serve", "conf")
"""What a job needs; sent whole where the checkout is no git repository."""
PATIENCE_S = 60.0
"""How long a job server that was there may be silent (a head that restarts) before the command gives up."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; whether the job was stopped is printed."""


@dataclass(frozen=True)
class Submission:
    """One stage to run elsewhere.

    Attributes:
        address: the cluster's dashboard, ``http://HOST:8265``.
        stage: name of the stage.
        overrides: its ``key=value`` arguments.
        verbose: passes ``-v`` on.
        install: have the nodes install the lock file's versions first (cached by Ray until it changes).
        num_cpus: CPUs reserved for the job's own process, which else runs on the head without a reservation.
        num_gpus: GPUs reserved for it, for learning in the driver's process.
        environment: environment variables of the job and its workers.
    """

    address: str
    stage: str
    overrides: tuple[str, ...] = ()
    verbose: bool = False
    install: bool = True
    num_cpus: float | None = None
    num_gpus: float | None = None
    environment: dict[str, str] = field(default_factory=dict)


def submit(submission: Submission) -> int:
    """Start the stage as a job, stream its log to standard output, and return its exit code.

    Raises:
        InputError: a bad configuration, an address where no job server answers, or another version of Ray there.
    """
    overrides = checked_overrides(submission.overrides)
    client = connect(submission.address)
    command = ["python", "-m", "pipeline", submission.stage, *overrides, *["-v"] * submission.verbose]
    with tempfile.TemporaryDirectory(prefix="tradewind-job-") as folder:
        n_files = stage_working_dir(Path(folder))
        job_id = _started(
            client,
            entrypoint=shlex.join(command),
            runtime_env=runtime_env(submission, folder),
            entrypoint_num_cpus=submission.num_cpus,
            entrypoint_num_gpus=submission.num_gpus,
            metadata={"stage": submission.stage},
        )
    _tell(f"{job_id}: {submission.stage} submitted to {submission.address}, {n_files} files of the checkout")
    return _follow_to_end(client, submission.address, job_id)


def attach(address: str, job_id: str) -> int:
    """Follow a job that was submitted before, from the start of its log, and return its exit code.

    Raises:
        InputError: no job server answers, or it knows no such job.
    """
    client = connect(address)
    try:
        client.get_job_status(job_id)
    except RuntimeError:
        known = ", ".join(str(job.submission_id) for job in client.list_jobs() if job.submission_id) or "none"
        raise InputError(f"{job_id}: no such job at {address}; there are: {known}") from None
    return _follow_to_end(client, address, job_id)


def checked_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with absolute paths, after the same check that the job will make.

    A ``run=`` or ``resume=`` folder that only the cluster sees is not checked here: the job does.

    Raises:
        InputError: see :func:`pipeline.compose.load_config`; or a relative path together with such a folder.
    """
    elsewhere = [
        override
        for override in overrides
        if override.startswith(("run=", "resume="))
        and Path(override.partition("=")[2]).is_absolute()
        and not Path(override.partition("=")[2]).exists()
    ]
    if elsewhere:
        for override in overrides:
            value = override.partition("=")[2]
            if Path(value).exists() and not Path(value).is_absolute():
                raise InputError(
                    f"{override}: a relative path, but {elsewhere[0]} is not on this machine; "
                    "allowed: absolute paths of the cluster's nodes, or URIs"
                )
        return list(overrides)
    return absolute_overrides(load_config(overrides), overrides)


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the cluster's job server.

    Raises:
        InputError: nothing answers, it wants a token, or it runs another minor version of Ray.
    """
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):  # they have levels of their own, and greet at INFO
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    allowed = "allowed: the URL of the head's dashboard, such as http://HOST:8265"
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{address}: no Ray job server: {reason}; {allowed}") from None
    there = client._server_ray_version
    if there.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise InputError(
            f"{address}: runs Ray {there}, this is Ray {ray.__version__}; allowed: the same minor"
        )
    return client


def runtime_env(submission: Submission, folder: str) -> dict[str, Any]:
    """Return what Ray sets up on each node for the job: the files of ``folder``, variables and, if asked, packages.

    Raises:
        InputError: packages are asked for and the lock file is missing.
    """
    wanted: dict[str, Any] = {"working_dir": folder, "env_vars": submission.environment}
    if submission.install:
        wanted["pip"] = job_requirements()
    return wanted


def job_requirements() -> list[str]:
    """Return the pinned packages that a job's nodes install: all but Ray, which the cluster brings.

    Raises:
        InputError: the lock file is missing.
    """
    if not LOCK_FILE.exists():
        raise InputError(f"{LOCK_FILE}: missing; write it with `make lock`, or submit with --no-env")
    return [line for line in read_lock() if line.partition("==")[0] != "ray"]


def stage_working_dir(target: Path, checkout: Path = CHECKOUT) -> int:
    """Copy what git tracks, or would, of the checkout into ``target``; return the number of files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        capture_output=True,
        check=False,
    )
    names = [Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]
    if listed.returncode != 0 or not names:
        names = [
            path.relative_to(checkout)
            for package in PACKAGES
            for path in sorted((checkout / package).rglob("*"))
            if "__pycache__" not in path.parts
        ]
    copied = 0
    for name in names:
        if (checkout / name).is_file():  # a tracked file may be deleted here, a link may lead nowhere
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkout / name, target / name)
            copied += 1
    return copied


def _started(client: JobSubmissionClient, **job: Any) -> str:
    """Submit, waiting for a cluster that has only just started and has no agent to run jobs yet."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _follow_to_end(client: JobSubmissionClient, address: str, job_id: str) -> int:
    try:
        info = asyncio.run(_stream(client, job_id))
    except KeyboardInterrupt:
        return _interrupted(client, address, job_id)
    except ConnectionError as error:
        _tell(f"{job_id}: {error}; the job may still run. {_how_to_go_on(address, job_id)}")
        return 1
    if info.driver_exit_code is not None:
        _tell(f"{job_id}: {str(info.status).lower()}, exit code {info.driver_exit_code}")
        return int(info.driver_exit_code)
    _tell(f"{job_id}: {str(info.status).lower()}: {info.message}")
    return 0 if str(info.status) == "SUCCEEDED" else 1


async def _stream(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """Print the log until the job has ended, and return what became of it.

    After a broken connection it goes on where the print stopped.

    Raises:
        ConnectionError: the job server stayed silent for :data:`PATIENCE_S`.
    """
    shown, lost_since = 0, None
    while True:
        try:
            position = 0
            # The server sends the log from its start at every connection.
            async for text in client.tail_job_logs(job_id):
                fresh = text[max(shown - position, 0) :]
                position += len(text)
                shown = max(shown, position)
                _show(fresh)
            info = client.get_job_info(job_id)
            if info.status.is_terminal():
                return info
            lost_since = None
        except (OSError, RuntimeError) as error:  # aiohttp's and requests' errors are OSErrors
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > PATIENCE_S:
                raise ConnectionError(f"no answer for {PATIENCE_S:.0f} s ({error})") from None
        await asyncio.sleep(0.5)


def _show(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # The reader has seen enough, as `head` has; the job's end still counts.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _interrupted(
    client: JobSubmissionClient, address: str, job_id: str, ask: Callable[[str], str] = input
) -> int:
    """Ask whether to stop the job; without a terminal, or on a second Ctrl-C, it goes on."""
    answer = ""
    if sys.stdin.isatty():
        try:
            answer = ask(f"\n{job_id} is running. Stop it? [y/N] ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
    if answer not in ("y", "yes"):
        _tell(f"{job_id}: left running. {_how_to_go_on(address, job_id)}")
        return INTERRUPTED
    try:
        client.stop_job(job_id)
        deadline = time.monotonic() + PATIENCE_S
        while not client.get_job_status(job_id).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)
        _tell(f"{job_id}: {str(client.get_job_status(job_id)).lower()}")
    except (OSError, RuntimeError) as error:
        _tell(f"{job_id}: {error}; the job may still run. {_how_to_go_on(address, job_id)}")
    return INTERRUPTED


def _how_to_go_on(address: str, job_id: str) -> str:
    return f"Follow it again: python -m pipeline attach {address} {job_id}"


def _tell(text: str) -> None:
    """Print about the job on standard error: standard output is the job's own log."""
    print(text, file=sys.stderr, flush=True)
