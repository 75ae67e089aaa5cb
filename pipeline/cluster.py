"""Joining or starting Ray, quietly."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray.exceptions import ActorDiedError

from pipeline.config import TradewindConfig
from pipeline.config.stages import ClusterConfig
from pipeline.console import verbose
from policies.errors import InputError

MEBIBYTE = 2**20


@contextmanager
def ray_session(config: TradewindConfig) -> Iterator[None]:
    """Have Ray initialised inside the block; a cluster that was already joined is left as it is."""
    if ray.is_initialized():
        yield
        return
    _connect(config.cluster)
    if not verbose():
        _quiet()
    try:
        yield
    finally:
        ray.shutdown()


def user_error(error: BaseException) -> BaseException:
    """Return the InputError that a worker raised, if that is what the Ray error is about."""
    seen: BaseException | None = error
    while seen is not None:
        for candidate in (seen, getattr(seen, "cause", None)):
            if isinstance(candidate, InputError) or _of_creation(candidate):
                # Ray puts its traceback before the message and hints on retrying after it.
                lines = str(candidate).strip().splitlines()
                named = [line.partition("InputError: ")[2] for line in lines if "InputError: " in line]
                return InputError(named[-1] if named else lines[-1])
        seen = seen.__cause__
    return error


def _of_creation(error: BaseException | None) -> bool:
    """Return whether an actor died of an InputError in its constructor: Ray keeps the traceback's text alone."""
    name = f"{InputError.__module__}.{InputError.__qualname__}: "
    return isinstance(error, ActorDiedError) and name in str(error)


def _connect(cluster: ClusterConfig) -> None:
    # A local ray.init writes an auth token; without an explicit mode, later clients on the machine get 401.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    level = logging.INFO if verbose() else logging.ERROR
    if not verbose():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with nullcontext() if verbose() else _without_native_stderr():
        _init(cluster, level)


def _init(cluster: ClusterConfig, level: int) -> None:
    inside_job = "RAY_ADDRESS" in os.environ
    if cluster.address == "local" and not inside_job:
        ray.init(
            address="local",
            num_cpus=cluster.num_cpus,
            include_dashboard=False,
            object_store_memory=cluster.object_store_mb * MEBIBYTE,
            log_to_driver=verbose(),
            logging_level=level,
        )
    else:
        address = None if inside_job or cluster.address == "auto" else cluster.address
        ray.init(address=address or "auto", log_to_driver=verbose(), logging_level=level)


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    """Discard what Ray's C++ core prints while it starts; failures still arrive as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray's libraries set the levels of their own loggers on import, so the parent's does not reach them.
    for library in ("data", "rllib", "tune", "serve"):
        logging.getLogger(f"ray.{library}").setLevel(logging.ERROR)
