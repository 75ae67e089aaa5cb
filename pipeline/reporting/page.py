"""The shell of a report: one HTML page with style, scripts and data inside, and its building blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import vl_convert

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --grey: #6b7280; --line: #e5e7eb; --blue: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f6f7f9;
  font: 15px/1.55 Inter, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 6px 0 10px; max-width: 96ch; }
.meta, .note { color: var(--grey); font-size: 13px; }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
.notice { background: #fff7e0; border: 1px solid #E69F00; border-radius: 10px; padding: 10px 16px; margin-top: 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 14px 0 6px; }
.tile { flex: 1 1 190px; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--grey); font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; margin-top: 8px; }
th { text-align: right; font-weight: 600; color: var(--grey); border-bottom: 1px solid #9aa2ad; padding: 4px 10px;
  vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: 4px 10px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tr.policy td { background: #e8f2f9; font-weight: 600; }
tr.single td { color: var(--grey); }
ul { padding-left: 20px; margin: 6px 0; }
code { background: #f1f3f5; border-radius: 4px; padding: 0 4px; font-size: 0.92em; }
table.texts { margin-top: 18px; }
td.text { white-space: normal; min-width: 320px; overflow-wrap: anywhere; }
tr.state-look td:first-child { color: #8a5a00; font-weight: 600; }
tr.state-alarm td:first-child { color: #a33b00; font-weight: 600; }
.checks th:nth-child(2), .checks td:nth-child(2) { text-align: left; white-space: normal; }
.checks td:first-child { width: 90px; }
.chart { margin-top: 10px; }
"""


def document(title: str, parts: Sequence[str], drawn: Mapping[str, Any]) -> str:
    """Return the page; scripts, styles and data are inside, and its policy forbids loading anything.

    Args:
        title: of the browser's tab.
        parts: HTML of the body, in order; every chart of ``drawn`` has its place there (see :func:`chart`).
        drawn: Vega-Lite specification of each chart by its name.
    """
    specs = json.dumps(drawn, sort_keys=True, separators=(",", ":")).replace("</", "<\\/")
    policy = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>{_vega()}</script>\n"
        + f'<script type="application/json" id="charts">{specs}</script>\n'
        + "<script>\nconst specs = JSON.parse(document.getElementById('charts').textContent);\n"
        + "for (const [name, spec] of Object.entries(specs))\n"
        + "  vegaEmbed('#' + name, spec, {actions: false, renderer: 'svg'});\n</script>\n</body>\n</html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """Return a titled box; ``note`` is plain text, ``body`` HTML."""
    shown = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{shown}{body}</section>"


def chart(name: str) -> str:
    """Return the place of a chart."""
    return f'<div class="chart" id="{name}"></div>'


def table(header: tuple[str, ...], rows: Sequence[tuple[str, tuple[str, ...]]], caption: str = "") -> str:
    """Return a table of plain-text cells; a row is (CSS class, cells)."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join(
        f'<tr class="{css}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for css, row in rows
    )
    title = f"<p><b>{escape(caption)}</b></p>" if caption else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def replace_file(path: Path, body: bytes) -> None:
    """Write a file as a whole."""
    staging = path.with_name(path.name + ".tmp")
    staging.write_bytes(body)
    staging.replace(path)


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and the embedder as one script (the stub of vl-convert forgets the default).

    Bundling takes seconds and always gives the same.
    """
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]
