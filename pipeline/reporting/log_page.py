"""The page and the console text of an evaluation on a feedback log, from its section of ``metrics.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pipeline.reporting import log_charts
from pipeline.reporting.page import chart, document, replace_file, section, table
from pipeline.reporting.style import styled
from pipeline.verdicts import PLAIN, aligned, comparison_cells, verdict_lines

Section = Mapping[str, Any]

MAIN_ESTIMATOR = "DR"
ESTIMATORS = ("IPS", "clipped IPS", "SNIPS", "DM", "DR", "SNDR", "Switch-DR")
"""In the order of the tables."""

_NOTES = {
    "value": (
        "Estimated mean reward of the policy and of the incumbent at each setting of the dial, doubly robust, with "
        "95 % bootstrap intervals over prompts. Rewards fall along the dial by definition: compare the two lines."
    ),
    "difference": (
        "Policy minus incumbent on the same events. Where the two decide alike an event says 0, so the difference "
        "is known better than either value. The verdict rests on its mean over the dial."
    ),
    "segments": "The same difference by task, averaged over the dial, with the number of events.",
    "estimators": (
        "Mean over the dial with 95 % bootstrap intervals. IPS, DR and SNIPS should agree within their intervals; "
        "DM trusts the outcome model and shows its bias where it stands apart."
    ),
    "diagnostics": (
        "Worst and best setting of the dial. Few effective events, a mean weight away from 1 or much mass on "
        "models that were hardly logged mean that this log cannot answer for that policy."
    ),
}


def write(path: Path, evaluation: Section) -> None:
    """Write the HTML page as a whole."""
    replace_file(path, html(evaluation, draw(evaluation)).encode())


def draw(evaluation: Section) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of every chart by its name on the page."""
    made = {
        "log-value": log_charts.value_over_dial(evaluation, MAIN_ESTIMATOR),
        "log-difference": log_charts.difference_over_dial(evaluation),
    }
    if evaluation["verdict"]["by_segment"]:
        made["log-segments"] = log_charts.segments(evaluation)
    return {name: styled(one).to_dict() for name, one in made.items()}


def html(evaluation: Section, drawn: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [
        _header(evaluation),
        section("Value along the dial", _NOTES["value"], chart("log-value")),
        section(
            "Policy against incumbent", _NOTES["difference"], chart("log-difference") + _settings(evaluation)
        ),
    ]
    if "log-segments" in drawn:
        parts.append(section("Task by task", _NOTES["segments"], chart("log-segments") + _tasks(evaluation)))
    estimates = table(_estimate_header(evaluation), [("", row) for row in _estimate_rows(evaluation)])
    diagnostics = table(_DIAGNOSTIC_HEADER, [("", row) for row in _diagnostic_rows(evaluation)])
    facts = "".join(f"<li>{escape(line)}</li>" for line in _facts(evaluation))
    models = table(
        ("model", "events", "eligible in"),
        [
            ("", (model, f"{n:,}", f"{evaluation['log']['eligible_share'][model]:.1%}"))
            for model, n in evaluation["log"]["events_per_model"].items()
        ],
    )
    parts += [
        section("All estimators", _NOTES["estimators"], estimates),
        section("Can this log answer?", _NOTES["diagnostics"], diagnostics),
        section("The log", "", f"<ul>{facts}</ul>{models}"),
    ]
    return document("Tradewind: may this policy ship?", parts, drawn)


def console_text(evaluation: Section) -> str:
    """Return everything worth knowing as plain text, the verdict last."""
    return "\n".join(
        [
            *(f"log: {line}" for line in _facts(evaluation)),
            f"policy {evaluation['candidate']['label']}, incumbent {evaluation['incumbent']['label']}",
            "",
            *aligned([_estimate_header(evaluation), *_estimate_rows(evaluation)]),
            "",
            *aligned([_DIAGNOSTIC_HEADER, *_diagnostic_rows(evaluation)]),
            "",
            *verdict_lines(evaluation["verdict"], evaluation["incumbent"]["label"], "events"),
        ]
    )


def _header(evaluation: Section) -> str:
    verdict, log = evaluation["verdict"], evaluation["log"]
    overall = verdict["overall"]
    tiles = (
        (str(verdict["decision"]), "verdict"),
        (f"{overall['difference']:+.4f}", "mean reward over the dial, policy minus incumbent"),
        (comparison_cells(overall)[3], f"its {1 - 2 * verdict['thresholds']['alpha']:.0%} interval"),
        (
            f"{log['n_events']:,}",
            f"events of {log['n_prompts']:,} prompts that the policy was not trained on",
        ),
        (f"{overall['difference_ess']:,.0f}", "effective events tell the two apart"),
    )
    shown = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in tiles)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    return (
        f"<h1>May this policy ship? {escape(PLAIN[verdict['decision']])}</h1>\n"
        f'<div class="meta">policy <code>{escape(evaluation["candidate"]["label"])}</code> against '
        f"{escape(evaluation['incumbent']['label'])}, off-policy, on <code>{escape(Path(log['source']).name)}</code>"
        f'</div>\n<section><ul>{reasons}</ul><div class="tiles">{shown}</div></section>'
    )


def _facts(evaluation: Section) -> list[str]:
    log = evaluation["log"]
    lines = [f"{log['n_events']:,} of {log['n_logged']:,} events are used, of {log['n_prompts']:,} prompts"]
    lines += log.get("notes", [])
    if log["n_trained_on"]:
        lines.append(f"{log['n_trained_on']:,} left out: their prompts trained or chose the policy")
    if log["n_outside_pool"]:
        lines.append(f"{log['n_outside_pool']:,} left out: a model outside the pool could have been called")
    if log["n_without_outcome"]:
        by_model = ", ".join(f"{n:,} of {model}" for model, n in log["n_without_outcome"].items())
        lines.append(
            f"{sum(log['n_without_outcome'].values()):,} left out: no score or cost has arrived ({by_model}); where "
            "that hangs on the outcome itself, every estimate is biased"
        )
    lines.append(f"smallest propensity {log['smallest_propensity']:.3g}")
    return lines


def _estimate_header(evaluation: Section) -> tuple[str, ...]:
    return ("mean reward over the dial", "policy", "95 % interval", "incumbent", "95 % interval")


def _estimate_rows(evaluation: Section) -> list[tuple[str, ...]]:
    ours, theirs = evaluation["candidate"]["estimates"], evaluation["incumbent"]["estimates"]
    rows: list[tuple[str, ...]] = []
    for name in ESTIMATORS:
        body = ours[name]
        # The logging policy's own mean reward is observed, not estimated: the same beside every estimator.
        other = theirs.get(name) or next(iter(theirs.values()))
        rows.append((name, *_with_bounds(body), *_with_bounds(other)))
    return rows


def _with_bounds(body: Section) -> tuple[str, str]:
    if body["mean"] is None:
        return "undefined", ""
    low_high = body["mean_interval"]
    known = low_high is not None and None not in low_high
    return f"{body['mean']:.4f}", f"{low_high[0]:.4f} .. {low_high[1]:.4f}" if known else ""


_DIAGNOSTIC_HEADER = ("over the dial", "policy", "incumbent")


def _diagnostic_rows(evaluation: Section) -> list[tuple[str, ...]]:
    sides = [evaluation[side].get("diagnostics") for side in ("candidate", "incumbent")]
    first = sides[0]
    assert first is not None, "the candidate is always estimated"
    floor, least = first["propensity_floor"][0], first["min_action_events"][0]
    kinds = (
        ("effective events (ESS)", "ess", ",.0f"),
        ("mean weight, should be 1", "mean_weight", ".3f"),
        ("largest weight", "max_weight", ",.1f"),
        (f"events with a propensity below {floor:g}", "share_below_floor", ".1%"),
        ("events whose model it never takes", "share_never_taken", ".1%"),
        (f"decisions for models with under {least} events", "unsupported_mass", ".1%"),
    )
    return [(label, *(_range(side, key, form) for side in sides)) for label, key, form in kinds]


def _range(side: Section | None, key: str, form: str) -> str:
    if side is None:
        return "it logged"
    low, high = min(side[key]), max(side[key])
    return f"{low:{form}}" if f"{low:{form}}" == f"{high:{form}}" else f"{low:{form}} .. {high:{form}}"


_COMPARISON_HEADER = ("slice", "events", "difference", "bounds", "effective events", "verdict")


def _settings(evaluation: Section) -> str:
    verdict = evaluation["verdict"]
    rows = [("policy", comparison_cells(verdict["overall"]))]
    rows += [("", comparison_cells(row)) for row in verdict["by_preference"]]
    return table(_COMPARISON_HEADER, rows)


def _tasks(evaluation: Section) -> str:
    return table(
        _COMPARISON_HEADER, [("", comparison_cells(row)) for row in evaluation["verdict"]["by_segment"]]
    )
