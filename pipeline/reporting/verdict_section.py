"""The verdict on a full table, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.reporting.page import section, table
from pipeline.reporting.style import SPLIT_TITLES
from pipeline.verdicts import PLAIN, comparison_cells

HEADER = ("slice", "prompts", "difference", "bounds", "decided otherwise", "verdict")


def verdict_section(metrics: Mapping[str, Any]) -> str:
    """Return the box that answers whether the policy may replace the incumbent, split by split."""
    body = ""
    for name, title in SPLIT_TITLES.items():
        verdict = metrics["verdicts"].get(name)
        if verdict is None:
            continue
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
        rows = [("policy", comparison_cells(verdict["overall"]))]
        rows += [("", comparison_cells(row)) for row in (*verdict["by_preference"], *verdict["by_segment"])]
        body += f"<p><b>{escape(title[0].upper() + title[1:])}: {escape(PLAIN[verdict['decision']])}</b></p>"
        body += f"<ul>{reasons}</ul><details><summary>every setting and task</summary>{table(HEADER, rows)}</details>"
    confidence = 1.0 - 2.0 * metrics["verdict"]["thresholds"]["alpha"]
    note = (
        f"Policy minus incumbent ({metrics['incumbent']}) in mean reward on the same prompts, {confidence:.0%} bounds. "
        "It ships when the mean over the dial is better and no setting or task loses more than is tolerated."
    )
    return section("May it ship?", note, body)
