"""Stage `serve`: the routing endpoint on Ray Serve, until Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from contextlib import suppress

from pipeline.cluster import ray_session
from pipeline.config import TradewindConfig
from pipeline.console import say, verbose
from pipeline.tracker import tracking_uri
from policies.bundle_encoder import check_bundle_encoder
from policies.errors import InputError
from serve.decider import check_exploration
from serve.gateway.upstreams import Upstreams
from serve.registry import load_bundle
from serve.settings import ServeSettings


def settings(config: TradewindConfig) -> ServeSettings:
    """Return the endpoint's own settings."""
    serve = config.serve
    return ServeSettings.parse(
        {
            "bundle": serve.bundle,
            "tracking_uri": None if serve.bundle else tracking_uri(config),
            "model": config.tracking.model,
            "alias": config.tracking.alias,
            "cache_dir": f"{config.run.root}/served",
            "encoder_batch_tokens": config.encoder.batch_tokens,
            "encoder_backend": None if config.encoder.backend == "auto" else config.encoder.backend,
            "max_batch_size": serve.max_batch_size,
            "batch_wait_s": serve.batch_wait_s,
            "cache_entries": serve.cache_entries,
            "max_prompt_chars": serve.max_prompt_chars,
            "decision": serve.decision,
            "routing": serve.routing.model_dump(),
            "log": serve.log.model_dump(),
            "gateway": serve.gateway.model_dump(),
            "scaling": serve.scaling.model_dump(),
            "releases": serve.releases.model_dump(),
            "access": serve.access.model_dump(),
            "metrics": serve.metrics.model_dump(),
            "num_replicas": serve.num_replicas,
            "num_cpus_per_replica": serve.num_cpus_per_replica,
            "max_ongoing_requests": serve.max_ongoing_requests,
        }
    )


def run(config: TradewindConfig) -> None:
    """Serve the registry's champion, or ``serve.bundle``; print the URL once it answers; stop on Ctrl-C.

    Raises:
        InputError: no policy to serve, the settings of the gateway or of exploration do not suit it, or the port
            is taken.
    """
    checked = settings(config)
    _need_free_port(config.serve.host, config.serve.port)
    # Fetched before Ray starts: a missing champion is told at once, and replicas find it on disk.
    bundle = load_bundle(checked)
    check_bundle_encoder(bundle, checked.encoder_backend)
    check_exploration(bundle, checked.routing.exploration)
    Upstreams(checked.gateway).check(bundle.pool)
    with ray_session(config):
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig

        from serve.app import APP_NAME, build

        if not verbose():
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
        serve.start(
            http_options=HTTPOptions(host=config.serve.host, port=config.serve.port), logging_config=quiet
        )
        try:
            serve.run(build(checked.model_dump()), name=APP_NAME, route_prefix="/", logging_config=quiet)
            say(f"serving on http://{config.serve.host}:{config.serve.port} (Ctrl-C stops)")
            with suppress(KeyboardInterrupt):
                _wait_for_stop()
        finally:
            serve.shutdown()


def _wait_for_stop() -> None:
    """Return on SIGTERM; Ctrl-C raises KeyboardInterrupt as ever."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # A wait without a limit cannot be interrupted by signals on every platform.
    while not stop.wait(1.0):
        pass


def _need_free_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"serve.host={host}, serve.port={port}: {error.strerror}") from None
