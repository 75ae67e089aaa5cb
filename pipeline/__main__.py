"""The command line: ``python -m pipeline STAGE [key=value ...]``.

``submit ADDRESS STAGE ...`` runs a stage as a job of a Ray cluster, ``attach ADDRESS JOB`` follows one.

Exit codes: 0 done, 1 failure, 2 bad input or configuration; with ``evaluate evaluate.gate=true`` also 3 do not
ship, 4 not enough data (and 0 means ship). ``submit`` and ``attach`` return the job's, or 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
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
    """A stage of the command line.

    Attributes:
        help: in one line.
        groups: of the configuration that it reads.
        records: whether its configuration becomes that of the run.
        actions: words that may follow it, each short for ``STAGE.action=WORD``.
    """

    help: str
    groups: tuple[str, ...]
    records: bool = True
    actions: tuple[str, ...] = ()


STAGES = {
    "ingest": Stage("files to checked tables and splits", ("run", "data", "pool")),
    "embed": Stage("prompts to vectors, with a pool of encoder actors", ("run", "encoder", "cluster")),
    "simulate": Stage("full outcome table to a partial-feedback log", ("run", "simulate", "output")),
    "train": Stage("learn the policy with RLlib", ("run", "policy", "train", "cluster")),
    "tune": Stage(
        "search the learner's settings with Ray Tune", ("run", "policy", "train", "tune", "cluster")
    ),
    "evaluate": Stage("measure on held-out prompts and tasks; write the report", ("run", "evaluate")),
    "onboard": Stage(
        "a new model for LLM Bandit: `onboard select` names the prompts to ask, `onboard fit` learns from the answers",
        ("run", "onboard", "tracking"),
        records=False,
        actions=("select", "fit"),
    ),
    "register": Stage("log to MLflow and register a model version", ("run", "tracking")),
    "route": Stage(
        "decide a prompts table over the dial", ("run", "data", "route", "encoder", "output"), records=False
    ),
    "serve": Stage("start the routing endpoint", ("serve", "tracking", "cluster"), records=False),
    "rollback": Stage("make the previous champion the champion again", ("tracking",), records=False),
    "run": Stage("all of it: ingest to register", ("run", "data", "pool", "encoder", "policy", "train")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    options = _parser().parse_args(arguments)
    configure_logging(show_all=options.verbose)
    try:
        if options.stage in ("submit", "attach"):
            return _run_job(options)
        stage = STAGES[options.stage]
        overrides = stage_overrides(options.stage, options.overrides)
        config = load_config(overrides)
        # A log from elsewhere or a suite of checks is a question put to a run, not a part of it.
        asked = config.evaluate.log is not None or config.evaluate.suite is not None
        if stage.records and not asked:
            record_config(config, overrides)
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


def stage_overrides(stage: str, words: Sequence[str]) -> list[str]:
    """Return what follows a stage as ``key=value`` alone: ``onboard select`` means ``onboard.action=select``."""
    return [f"{stage}.action={word}" if word in STAGES[stage].actions else word for word in words]


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
        words = f"{'|'.join(stage.actions)} key=value" if stage.actions else "key=value"
        sub.add_argument("overrides", nargs="*", metavar=words, help="configuration, see below")
        _add_verbose(sub)
    _add_job_commands(stages)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="show every log line and tracebacks")


def _add_job_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    address = "the cluster's dashboard, such as http://127.0.0.1:8265"
    submit = commands.add_parser("submit", help="run a stage as a job of a Ray cluster, see docs/deploy.md")
    submit.add_argument("address", metavar="ADDRESS", help=address)
    submit.add_argument("job_stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="the stage's configuration")
    submit.add_argument("--no-env", action="store_true", help="install nothing: nodes have the packages")
    submit.add_argument("--num-cpus", type=float, help="CPUs reserved for the job's own process")
    submit.add_argument("--num-gpus", type=float, help="GPUs reserved for the job's own process")
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="environment variable to pass on"
    )
    _add_verbose(submit)
    attach = commands.add_parser("attach", help="follow a submitted job, from the start of its log")
    attach.add_argument("address", metavar="ADDRESS", help=address)
    attach.add_argument("job", metavar="JOB", help="what `submit` printed, raysubmit_...")
    _add_verbose(attach)


def _run_job(options: argparse.Namespace) -> int:
    """Submit or follow a job; InputErrors are raised."""
    from pipeline import submit

    if options.stage == "attach":
        return submit.attach(options.address, options.job)
    environment = {}
    for entry in options.env:
        name, equals, value = entry.partition("=")
        if not equals and name not in os.environ:
            raise InputError(f"--env {name}: not set here; give --env {name}=VALUE")
        environment[name] = value if equals else os.environ[name]
    return submit.submit(
        submit.Submission(
            address=options.address,
            stage=options.job_stage,
            overrides=tuple(stage_overrides(options.job_stage, options.overrides)),
            verbose=options.verbose,
            install=not options.no_env,
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            environment=environment,
        )
    )


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
