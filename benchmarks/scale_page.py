"""The tables of docs/scale.md, written from the measurements between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.scale_cost import (
    Assumptions,
    corpus_need,
    cpu_s_beyond_start,
    most_prompts,
    sample_need,
    serving_need,
)

STAGES = ("embed", "train", "evaluate", "route")

LEAST_REPEATS = 3
"""Runs of each size but a stage's largest below which the page calls its figures provisional."""

MOST_OTHER = 0.1
"""Share of the processors that other work may take (median) before it does so too."""


def render(page: str, done: Mapping[str, Any], given: Assumptions | None = None) -> str:
    """Return the page with its tables written anew.

    Raises:
        ValueError: the page lacks one of the tables' places.
    """
    assumed = given or Assumptions()
    fits = done["fits"]
    tables = {
        "machine": _machine(done),
        "measured": _measured(done),
        "fitted": _fitted(fits),
        "shares": _shares(fits),
        "assumptions": _assumptions(assumed),
        "corpus": _corpus(fits, assumed),
        "serving": _serving(fits, assumed),
    }
    for name, lines in tables.items():
        if not re.search(rf"<!-- {name} -->\n.*?<!-- end -->", page, re.DOTALL):
            raise ValueError(f"the page has no place <!-- {name} --> ... <!-- end -->")
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = "\n".join(
            [f"{before}<!-- {name} -->", *lines, "<!-- end -->" + rest.partition("<!-- end -->")[2]]
        )
    return page


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def _number(value: float) -> str:
    """Return three significant figures, without a power of ten."""
    if value == 0.0 or not math.isfinite(value):
        return "0" if value == 0.0 else "no limit"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits) if digits else float(f'{value:.3g}'):,.{min(digits, 4)}f}"


def _machine(done: Mapping[str, Any]) -> list[str]:
    machine = done["machine"]
    others = [run["other_cpus"] for run in done["runs"]]
    runs_of = Counter((run["stage"], run["prompts"]) for run in done["runs"])
    largest = {stage: max(n for of, n in runs_of if of == stage) for stage, _ in runs_of}
    repeats = min((count for (stage, n), count in runs_of.items() if n < largest[stage]), default=0)
    lines = [
        f"Measured on {machine['cores']} cores and {machine['memory_gb']} GiB, `embed` with "
        f"`{machine['encoder_backend']}`; during a run other work took "
        f"{np.median(others):.2f} cores (median), at most {max(others):.2f}. "
        "Wall seconds suffer from it, CPU seconds little."
    ]
    if repeats < LEAST_REPEATS or np.median(others) > MOST_OTHER * machine["cores"]:
        lines.append(
            f"**All figures of this page are provisional**: fewest runs of a size below the largest: {repeats}; at "
            f"least {LEAST_REPEATS} on an otherwise idle machine are wanted."
        )
    return lines


def _measured(done: Mapping[str, Any]) -> list[str]:
    rows = []
    for stage in STAGES:
        for n in sorted({run["prompts"] for run in done["runs"] if run["stage"] == stage}):
            own = [run for run in done["runs"] if (run["stage"], run["prompts"]) == (stage, n)]
            median = {
                name: float(np.median([run[name] for run in own])) for name in ("cpu_s", "wall_s", "peak_mb")
            }
            rows.append(
                [
                    stage,
                    f"{n:,}",
                    str(len(own)),
                    *(_number(median[name]) for name in ("cpu_s", "wall_s", "peak_mb")),
                ]
            )
    return _table(["stage", "prompts", "runs", "CPU s", "wall s", "peak MiB"], rows)


def _fitted(fits: Mapping[str, Any]) -> list[str]:
    rows = []
    for stage in STAGES:
        fit = fits[stage]
        error = "" if fit["exponent_se"] is None else f" ± {1.96 * fit['exponent_se']:.2f}"
        rows.append(
            [
                stage,
                _number(fit["start_cpu_s"]),
                f"{fit['exponent']:.2f}{error}",
                _number(fit["cpu_s_per_million"]),
                _number(fit["wall_s_per_million"]),
                _number(max(0.0, fit["bytes_per_prompt"]) / 1024),
            ]
        )
    return _table(
        [
            "stage",
            "start-up, CPU s",
            "exponent",
            "CPU s per million",
            "wall s per million",
            "memory, KiB a prompt",
        ],
        rows,
    )


def _shares(fits: Mapping[str, Any]) -> list[str]:
    rows = []
    for n in (1_000, 10_000, 100_000, 1_000_000):
        beyond = {stage: cpu_s_beyond_start(fits[stage], n) for stage in STAGES}
        start = sum(fits[stage]["start_cpu_s"] for stage in STAGES)
        total = start + sum(beyond.values())
        rows.append(
            [f"{n:,}", _number(total), f"{start / total:.0%}"]
            + [f"{beyond[stage] / total:.0%}" for stage in STAGES]
        )
    return _table(["prompts", "CPU s", "start-up", *STAGES], rows)


def _assumptions(given: Assumptions) -> list[str]:
    return [
        f"* Node: {given.node} with {given.node_cores} cores and {given.node_memory_gb:g} GiB at "
        f"{given.node_usd_per_h:g} USD an hour on demand, {given.node_usd_per_h / given.node_cores:.4f} USD a core and "
        "hour. Prices differ by region and month: put yours in.",
        "* A core there is as fast as one of the machine that was measured; where it computes in bfloat16 and that one "
        "does not, `embed` takes less.",
        f"* {given.utilisation:.0%} of the cores' time is planned with.",
        f"* The corpus of {given.corpus:,} prompts is to be done in {given.hours:g} hours; "
        f"{given.sample:,} of its prompts are learned from and measured on.",
        f"* `embed` holds {given.embed_bytes_per_prompt:g} bytes of a prompt (`python -m benchmarks.embed_memory`); "
        "the peaks above are of its processes' start.",
        f"* A replica with its proxy answers {given.replica_requests_per_s:g} requests a second on "
        f"{given.replica_cores:g} cores that it shared with its clients ([operations](operations.md)); "
        f"{given.known_share:.0%} of the requests bring a prompt whose vector is remembered.",
        "* Storage, network and the called models are not in the figures.",
    ]


def _corpus(fits: Mapping[str, Any], given: Assumptions) -> list[str]:
    rows = []
    held = {"bytes_per_prompt": given.embed_bytes_per_prompt}
    memory = {"embed": {**fits["embed"], **held}, "route": fits["route"]}
    for stage in ("embed", "route"):
        need = corpus_need(fits[stage], given.corpus, given)
        limit = most_prompts(memory[stage], given)
        parts = "1" if limit >= given.corpus else f"{math.ceil(given.corpus / limit):,}"
        rows.append(
            [stage, f"{given.corpus:,}", _number(need.core_h), f"{need.nodes:,}", parts, _number(need.usd)]
        )
    for stage in ("train", "evaluate"):
        need = sample_need(fits[stage], given.sample, given)
        limit = most_prompts(fits[stage], given)
        parts = (
            "1"
            if limit >= given.sample
            else f"more memory: {_number(given.sample / limit * given.node_memory_gb)} GiB"
        )
        rows.append(
            [stage, f"{given.sample:,}", _number(need.core_h), f"{need.nodes}", parts, _number(need.usd)]
        )
    return _table(["stage", "prompts", "core hours", "nodes at once", "jobs, by memory", "USD"], rows)


def _serving(fits: Mapping[str, Any], given: Assumptions) -> list[str]:
    rows = []
    for share in (0.0, 0.5, 0.9, 1.0):
        need = serving_need(fits["embed"], Assumptions(**{**vars(given), "known_share": share}))
        rows.append(
            [
                f"{share:.0%}",
                _number(need.core_h),
                f"{need.nodes:,}",
                _number(need.usd),
                _number(need.usd / (given.requests_per_s * 3600 / 1e6)),
            ]
        )
    return _table(["known prompts", "busy cores", "nodes", "USD an hour", "USD per million requests"], rows)
