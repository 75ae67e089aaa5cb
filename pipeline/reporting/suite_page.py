"""The page and the console text of a suite of checks, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pipeline.reporting.page import document, replace_file, section, table
from pipeline.verdicts import aligned

VERDICTS = {True: "pass", False: "FAIL", None: "n/a"}
CLAIMS_HEADER = ("", "goal", "measured")


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write the HTML page as a whole."""
    replace_file(path, html(results).encode())


def html(results: Mapping[str, Any]) -> str:
    """Return the page."""
    claims = [claim for finding in results["checks"] for claim in finding["claims"]]
    judged = [claim["passed"] for claim in claims if claim["passed"] is not None]
    sizes = ", ".join(f"{n:,} {split}" for split, n in results["n_prompts"].items())
    head = (
        f"<h1>LLM Bandit's checks: {sum(judged)} of {len(judged)} goals reached</h1>\n"
        f"<div class=\"meta\">pool '{escape(results['pool'])}' of {len(results['models'])} models; "
        f"prompts: {escape(sizes)}; "
        f"seed {results['seed']}</div>"
    )
    overview = section("Goals", "", _claims(claims))
    parts = [_section(finding) for finding in results["checks"]]
    return document("Tradewind: LLM Bandit's checks", [head, overview, *parts], {})


def console_lines(finding: Mapping[str, Any]) -> list[str]:
    """Return one check as plain text: its tables, then its goals."""
    lines = ["", finding["title"]]
    for one in finding["tables"]:
        lines += ["", one["caption"], *aligned([tuple(one["header"]), *(tuple(row) for row in one["rows"])])]
    lines.append("")
    return lines + [f"{VERDICTS[c['passed']]}: {c['goal']}: {c['figure']}" for c in finding["claims"]]


def _section(finding: Mapping[str, Any]) -> str:
    tables = "".join(
        table(tuple(one["header"]), [("", tuple(row)) for row in one["rows"]], one["caption"])
        for one in finding["tables"]
    )
    return section(finding["title"], finding["note"], _claims(finding["claims"]) + tables)


def _claims(claims: Any) -> str:
    state = {True: "", False: "state-alarm", None: "state-look"}
    rows = [(state[c["passed"]], (VERDICTS[c["passed"]], c["goal"], c["figure"])) for c in claims]
    return f'<div class="checks">{table(CLAIMS_HEADER, rows)}</div>'
