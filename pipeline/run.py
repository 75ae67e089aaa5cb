"""All stages, one after the other: from files to a registered policy."""

from __future__ import annotations

from pipeline import embed, evaluate, ingest, register, simulate, train
from pipeline.cluster import ray_session
from pipeline.config import TradewindConfig
from pipeline.layout import RunLayout
from pipeline.provenance import refuse_training
from policies.errors import InputError


def run(config: TradewindConfig) -> None:
    """Ingest, embed, simulate (where a log is to be learned from and none was given), train, evaluate, register.

    Raises:
        InputError: of any stage; or a log is all there is, and training is to see every model's outcome.
    """
    if config.data.source == "log" and config.train.mode != "logged":
        raise InputError(
            f"train.mode={config.train.mode}: data=log holds the outcome of one model a prompt; allowed: logged"
        )
    with ray_session(config):
        ingest.run(config)
        refuse_training(RunLayout.of(config))
        embed.run(config)
        if config.train.mode == "logged" and config.data.source != "log":
            simulate.run(config)
        train.run(config)
        evaluate.run(config)
        register.run(config)
