"""The suite itself: data, trainings, checks, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cluster import ray_session
from pipeline.comparisons import RunComparisons
from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.cost_scale import reference_tau_usd
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.llm_bandit_suite import (
    candidate_sets,
    held_out_preferences,
    query_costs,
    router_comparison,
    unseen_models,
)
from pipeline.llm_bandit_suite.bench import Bench
from pipeline.llm_bandit_suite.context import SuiteContext
from pipeline.llm_bandit_suite.findings import Finding
from pipeline.llm_bandit_suite.trainings import Trained, Training, train_all
from pipeline.plain_json import plain, write_json
from pipeline.reporting import suite_page
from pipeline.splits import OOD, TEST, TRAIN, VALIDATION
from policies.errors import InputError

FORMAT_VERSION = 1
FOLDER = "llm_bandit_suite"
RESULTS_FILE = "suite.json"
REPORT_FILE = "suite.html"


class Check(NamedTuple):
    """What it needs trained, and how it is judged."""

    trainings: Callable[[SuiteContext], list[Training]]
    check: Callable[[SuiteContext, Mapping[str, Trained]], Finding]


CHECKS = {
    module.NAME: Check(module.trainings, module.check)
    for module in (unseen_models, held_out_preferences, query_costs, candidate_sets, router_comparison)
}


def run(config: TradewindConfig) -> dict[str, Any]:
    """Run the configured checks on a run's prompts; write ``RUN/llm_bandit_suite/`` and print claims and tables.

    Policies that an earlier call trained alike are used again. The run's own policy and report stay as they are.

    Returns:
        What ``suite.json`` holds.

    Raises:
        InputError: a stage before this one has not run, there is no full outcome table, or a split has no prompt
            that every model answered.
    """
    layout = RunLayout.of(config)
    context = load_context(config, layout.root / FOLDER)
    checks = [CHECKS[name] for name in config.evaluate.llm_bandit.checks]
    wanted = {training.name: training for check in checks for training in check.trainings(context)}
    findings = []
    with ray_session(config):
        trained = train_all(
            wanted.values(),
            context.train,
            context.validation,
            context.folder / "policies",
            RunComparisons.of(layout),
        )
        for check in checks:
            findings.append(check.check(context, trained))
            say("\n".join(suite_page.console_lines(findings[-1].as_dict())))
    results = plain(
        {
            "format_version": FORMAT_VERSION,
            "pool": config.pool.name,
            "models": list(context.train.pool.models),
            "seed": config.run.seed,
            "tau_usd": context.tau_usd,
            "n_prompts": {
                TRAIN: len(context.train),
                VALIDATION: len(context.validation),
                **{split: len(bench.data) for split, bench in context.benches.items()},
            },
            "settings": config.evaluate.llm_bandit.model_dump(mode="json"),
            "checks": [finding.as_dict() for finding in findings],
        }
    )
    write_json(context.folder / RESULTS_FILE, results)
    suite_page.write(context.folder / REPORT_FILE, results)
    say(f"report: {context.folder / REPORT_FILE}")
    return results


def load_context(config: TradewindConfig, folder: Path) -> SuiteContext:
    """Return data and settings; a run of another policy is checked with LLM Bandit's default settings.

    Raises:
        InputError: see :func:`run`.
    """
    if config.policy.name != "llm_bandit":
        config = config.model_copy(update={"policy": load_config(["policy=llm_bandit"]).policy})
    config = config.model_copy(update={"train": config.train.model_copy(update={"mode": "simulated_online"})})
    layout = RunLayout.of(config)
    if not layout.outcomes.exists() and layout.feedback.exists():
        raise InputError(
            f"{layout.root}: suite=llm_bandit needs every model's outcomes (data.outcomes); this run has a log alone"
        )
    data = {name: load_outcomes(layout, config, (name,)) for name in (TRAIN, VALIDATION, TEST, OOD)}
    training = data[TRAIN].complete()
    for name in (TRAIN, VALIDATION, TEST):
        if not len(data[name].complete()):
            raise InputError(
                f"{layout.outcomes}: of {len(data[name])} prompts of the split '{name}' none was answered by every "
                f"model of the pool '{config.pool.name}'; a smaller pool may help"
            )
    tau_usd = reference_tau_usd(config, data[TRAIN])
    folder.mkdir(parents=True, exist_ok=True)
    benches = {
        name: Bench.of(name, data[name].complete(), training, tau_usd)
        for name in (TEST, OOD)
        if len(data[name].complete())
    }
    return SuiteContext(config, data[TRAIN], data[VALIDATION], benches, tau_usd, folder)
