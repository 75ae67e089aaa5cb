"""The command line: ``python -m pipeline STAGE [key=value ...]``.

Exit codes: 0 done, 1 failure, 2 bad input or configuration; with ``evaluate evaluate.gate=true`` also 3 do not
ship, 4 not enough data (and 0 means ship).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from pydantic import BaseModel

from pipeline.compose import load_config, record_config
from pipeline.config import TradewindConfig
from pipeline.console import configure_logging
from policies.errors import InputError

GATE_EXIT_CODES = {"ship": 0, "do not ship": 3, "not enough data": 4}
"""What ``evaluate`` exits with under ``evaluate.gate=true``, by the verdict's decision."""


@dataclass(frozen=True)
class Stage:
    """A stage's one-line help and the configuration groups that it reads."""

    help: str
    groups: tuple[str, ...]
    records: bool = True


STAGES = {
    "ingest": Stage("files to checked tables and splits", ("run", "data", "pool")),
    "embed": Stage("prompts to vectors, with a pool of encoder actors", ("run", "encoder", "cluster")),
    "simulate": Stage("full outcome table to a partial-feedback log", ("run", "simulate", "output")),
    "train": Stage("learn the policy with RLlib", ("run", "policy", "train", "cluster")),
    "tune": Stage(
        "search the learner's settings with Ray Tune", ("run", "policy", "train", "tune", "cluster")
    ),
    "evaluate": Stage("measure on held-out prompts and tasks; write the report", ("run", "evaluate")),
    "register": Stage("log to MLflow and register a model version", ("run", "tracking")),
    "route": Stage(
        "decide a prompts table over the dial", ("run", "data", "route", "encoder", "output"), records=False
    ),
    "serve": Stage("start the routing endpoint", ("serve", "tracking", "cluster"), records=False),
    "run": Stage("all of it: ingest to register", ("run", "data", "pool", "encoder", "policy", "train")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    options = _parser().parse_args(arguments)
    configure_logging(show_all=options.verbose)
    stage = STAGES[options.stage]
    try:
        config = load_config(options.overrides)
        # A log from elsewhere is a question put to a run, not a part of it.
        if stage.records and config.evaluate.log is None:
            record_config(config, options.overrides)
        result = import_module(f"pipeline.{options.stage}").run(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished stages are kept, nothing is half-written", file=sys.stderr)
        return 1
    except Exception as error:
        if options.verbose:
            raise
        print(
            f"failure in {options.stage}: {type(error).__name__}: {error} (-v shows where)", file=sys.stderr
        )
        return 1
    if options.stage == "evaluate" and config.evaluate.gate:
        return GATE_EXIT_CODES[result["verdict"]["decision"]]
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__.splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, stage in STAGES.items():
        sub = stages.add_parser(
            name,
            help=stage.help,
            description=stage.help,
            epilog=_keys(stage),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="configuration, see below")
        sub.add_argument("-v", "--verbose", action="store_true", help="show every log line and tracebacks")
    return parser


def _keys(stage: Stage) -> str:
    lines = ["run=DIR continues an earlier run with its configuration. Keys that matter here:"]
    for group in stage.groups:
        field = TradewindConfig.model_fields[group]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines.append(f"\n{group}: {(field.annotation.__doc__ or '').splitlines()[0]}")
            for name, entry in field.annotation.model_fields.items():
                kind = getattr(entry.annotation, "__name__", None) or str(entry.annotation)
                lines.append(
                    f"  {group}.{name}  ({kind.replace('typing.', '')})  {entry.description or ''}".rstrip()
                )
        else:
            lines.append(f"\n{group}: {field.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
