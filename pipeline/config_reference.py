"""The page of all configuration keys: ``python -m pipeline.config_reference > docs/configuration.md``.

Keys, ranges and meanings come from the pydantic models, defaults from ``conf/``; a test fails when the page is stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.compose import CONF_DIR, load_config
from pipeline.config import TradewindConfig

LONGEST_DEFAULT = 60
"""Characters of a default that still fit a table."""

HEAD = """# Configuration

Every key of every stage. `python -m pipeline STAGE key=value ...` overrides a key; `group=option` takes another file
of `conf/GROUP/`. Paths are local (made absolute) or URIs. An unknown key, a wrong type or a value out of range stops
before any work, with exit code 2.

Short forms: `pool=PATH` is a pool file; `source=NAME [path=PATH]` a public benchmark; `run=DIR` continues a run with
its configuration; `resume=DIR` goes on with a search; `log=PATH` evaluates on a feedback log.

This page is written by `make reference`.
"""


def render() -> str:
    """Return the page as Markdown."""
    schema = TradewindConfig.model_json_schema()
    defaults = load_config([]).plain()
    parts = [HEAD]
    for group, node in schema["properties"].items():
        if group == "policy":
            parts.extend(_policies(schema))
            continue
        fields = _resolved(node, schema)
        if "properties" not in fields:
            parts.append(f"## `{group}`\n\n{_table([(group, fields, defaults[group])], schema)}")
            continue
        options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml") if path.stem[0] != "_")
        chosen = f"Options of the group: {', '.join(f'`{o}`' for o in options)}.\n\n" if options else ""
        table = _table(_leaves(group, fields, defaults[group], schema), schema)
        parts.append(f"## `{group}`\n\n{_first_line(fields)}\n\n{chosen}{table}")
    return "\n".join(parts)


def _policies(schema: dict[str, Any]) -> Iterator[str]:
    yield "## `policy`\n\nOne policy, chosen by `policy=NAME`; each has keys of its own.\n"
    for path in sorted((CONF_DIR / "policy").glob("*.yaml")):
        values = load_config([f"policy={path.stem}"]).policy
        fields = type(values).model_json_schema()
        table = _table(_leaves("policy", fields, values.model_dump(mode="json"), fields), fields)
        yield f"### `policy={path.stem}`\n\n{_first_line(fields)}\n\n{table}"


def _leaves(
    key: str, fields: dict[str, Any], defaults: dict[str, Any], schema: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield key, schema and default of every single value below a group."""
    for name, node in fields["properties"].items():
        inner = _resolved(node, schema)
        if "properties" in inner:
            yield from _leaves(f"{key}.{name}", inner, defaults[name], schema)
        else:
            yield f"{key}.{name}", inner, defaults[name]


def _table(leaves: Any, schema: dict[str, Any]) -> str:
    rows = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for key, node, default in leaves:
        cells = (f"`{key}`", _allowed(node, schema), _default(default), node.get("description", ""))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its reference followed; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    target = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _allowed(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the type and the range of a value, in words."""
    node = _resolved(node, schema)
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_allowed(choice, schema) for choice in choices))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type", "any")
    if kind == "array":
        items = node.get("items")
        return f"list of {_allowed(items, schema)}" if items else "list"
    if kind == "object":
        return "mapping"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false"}
    return names.get(kind, kind) + _range(node)


def _range(node: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return f" {' and '.join(limits)}" if limits else ""


def _default(value: Any) -> str:
    if isinstance(value, str):
        for folder in (Path.cwd(), CONF_DIR.parent):  # paths are shown as conf/ gives them
            value = value.removeprefix(f"{folder}/")
    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see `conf/`"


def _first_line(fields: dict[str, Any]) -> str:
    return str(fields.get("description", "")).partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(render())
