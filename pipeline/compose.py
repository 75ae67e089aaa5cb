"""From command-line overrides to a validated configuration: Hydra composes, pydantic checks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from pipeline.config import TradewindConfig
from policies.errors import InputError

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
OVERRIDES_FILE = "overrides.yaml"
CONFIG_FILE = "config.yaml"
SEARCH_FOLDER = "tune"
"""Folder of a run in which a search keeps its state."""


def load_config(overrides: Sequence[str], *, conf_dir: Path = CONF_DIR) -> TradewindConfig:
    """Return the configuration of ``key=value`` overrides.

    ``pool=PATH`` (an existing YAML file, or anything with a slash or a ``.yaml`` ending) stands for
    ``pool=file pool.path=PATH``. ``source=NAME [path=PATH]`` stands for ``data=benchmark data.benchmark=NAME
    [data.path=PATH]``, or for ``data=NAME`` where that is an option of the group. ``run=DIR`` names an
    existing run: its recorded overrides come first, those given now win. ``resume=PATH``, the folder of a
    search or of its run, stands for ``run=DIR tune.resume=DIR/tune``. ``log=PATH`` stands for
    ``evaluate.log=PATH``, ``suite=NAME`` for ``evaluate.suite=NAME``.

    Raises:
        InputError: an unknown key or group option, a wrong type or an out-of-range value, with the key's
            path, the value and what is allowed.
    """
    pairs = _spell_out(_pairs(overrides), conf_dir)
    if "run" in pairs:
        run_dir = Path(pairs.pop("run")).expanduser().absolute()
        pairs = {**recorded_overrides(run_dir), **pairs, "run.dir": str(run_dir)}
    if "pool" in pairs and _is_path(pairs["pool"]):
        path = pairs.pop("pool")
        pairs = {"pool": "file", "pool.path": path, **pairs}
    raw = _compose(pairs, conf_dir)
    try:
        return TradewindConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(explain(error)) from None


def recorded_overrides(run_dir: Path) -> dict[str, str]:
    """Return the overrides that a run was started with.

    Raises:
        InputError: the folder is not a run.
    """
    path = run_dir / OVERRIDES_FILE
    if not path.exists():
        raise InputError(f"run={run_dir}: not the folder of a run (no {OVERRIDES_FILE})")
    return _pairs(yaml.safe_load(path.read_text()) or [])


def record_config(config: TradewindConfig, overrides: Sequence[str]) -> None:
    """Write the resolved configuration and the overrides (paths made absolute) into the run's folder.

    Raises:
        InputError: the folder cannot be written.
    """
    run_dir = config.run.path
    pairs = _spell_out(_pairs(overrides), CONF_DIR)
    if "run" in pairs:
        del pairs["run"]
        pairs = {**recorded_overrides(run_dir), **pairs}
    placed = _with_absolute_paths(pairs, config)
    lines = [f"{k}={v}" for k, v in placed.items() if k not in ("output", "run.dir", "tune.resume")]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (OVERRIDES_FILE, yaml.safe_dump(lines)),
            (CONFIG_FILE, yaml.safe_dump(config.plain(), sort_keys=False)),
        ):
            staging = run_dir / f"{name}.tmp"
            staging.write_text(text)
            staging.replace(run_dir / name)
    except OSError as error:
        raise InputError(f"run.dir={run_dir}: cannot be written: {error.strerror}") from None


def absolute_overrides(config: TradewindConfig, overrides: Sequence[str]) -> list[str]:
    """Return overrides that mean the same in any working directory.

    Args:
        config: what :func:`load_config` made of them here.
        overrides: ``key=value`` strings; short forms come back spelt out.
    """
    pairs = _with_absolute_paths(_spell_out(_pairs(overrides), CONF_DIR), config)
    if "run" in pairs:
        pairs["run"] = str(config.run.path)
    else:
        # The default root is relative too, and nothing on the command line says so. A run's folder that is given alone
        # is on the cluster's shared disk, where its parent can hold the embedding store; a root here would not be.
        root = config.run.path.parent if config.run.dir else config.run.root
        pairs = {"run.root": str(root), **pairs}
    return [f"{key}={value}" for key, value in pairs.items()]


def _with_absolute_paths(pairs: dict[str, str], config: TradewindConfig) -> dict[str, str]:
    if "pool" in pairs and _is_path(pairs["pool"]):
        rest = {key: value for key, value in pairs.items() if key != "pool"}
        pairs = {"pool": "file", "pool.path": config.pool.path, **rest}
    resolved = config.plain()
    placed = {}
    for key, value in pairs.items():
        now = _lookup(resolved, key)
        placed[key] = now if isinstance(now, str) and now.startswith("/") else value
    return placed


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise InputError(f"'{override}': expected key=value")
        pairs.pop(key, None)
        pairs[key] = value
    return pairs


def _spell_out(pairs: dict[str, str], conf_dir: Path) -> dict[str, str]:
    short = {"log": "evaluate.log", "suite": "evaluate.suite"}
    named = {short.get(key, key): value for key, value in pairs.items()}
    return _spell_out_resume(_spell_out_source(named, conf_dir))


def _spell_out_resume(pairs: dict[str, str]) -> dict[str, str]:
    if "resume" not in pairs:
        return pairs
    folder = Path(pairs["resume"]).expanduser().absolute()
    run_dir = folder if (folder / OVERRIDES_FILE).exists() else folder.parent
    if not (run_dir / OVERRIDES_FILE).exists():
        raise InputError(
            f"resume={folder}: neither the folder of a run nor of its search (no {OVERRIDES_FILE} there)"
        )
    rest = {key: value for key, value in pairs.items() if key != "resume"}
    return {"run": str(run_dir), **rest, "tune.resume": str(run_dir / SEARCH_FOLDER)}


def _spell_out_source(pairs: dict[str, str], conf_dir: Path) -> dict[str, str]:
    if "path" in pairs and "source" not in pairs:
        raise InputError(f"path={pairs['path']}: belongs to source=NAME; give data.path or pool.path instead")
    long_form: dict[str, str] = {}
    for key, value in pairs.items():
        if key == "path":
            long_form["data.path"] = value
        elif key != "source":
            long_form[key] = value
        elif (conf_dir / "data" / f"{value}.yaml").exists() and not value.startswith("_"):
            long_form["data"] = value
        else:
            long_form |= {"data": "benchmark", "data.benchmark": value}
    return long_form


def _is_path(value: str) -> bool:
    return "/" in value or value.endswith((".yaml", ".yml"))


def _lookup(tree: dict[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _quoted(key: str, value: str) -> str:
    if value[:1] in "[{'\"" or value in ("", "null"):
        return f"{key}={value}"
    return f"{key}='{value}'" if _needs_quotes(value) else f"{key}={value}"


def _needs_quotes(value: str) -> bool:
    return any(c in value for c in "=,:() ") and "'" not in value


def _compose(pairs: dict[str, str], conf_dir: Path) -> Any:
    if not (conf_dir / CONFIG_FILE).exists():
        raise InputError(f"{conf_dir}: no {CONFIG_FILE} here")
    OmegaConf.register_new_resolver("conf", lambda name: str(conf_dir / name), replace=True)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir.absolute()), version_base="1.3"):
            composed = compose("config", overrides=[_quoted(k, v) for k, v in pairs.items()])
            missing = sorted(OmegaConf.missing_keys(composed))
            if missing:
                raise InputError(f"{missing[0]} is not set; give {missing[0]}=VALUE")
            return OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain_hydra(error, pairs, conf_dir)) from None


def _explain_hydra(error: Exception, pairs: dict[str, str], conf_dir: Path) -> str:
    for key, value in pairs.items():
        group = conf_dir / key
        if group.is_dir():
            options = sorted(p.stem for p in group.glob("*.yaml") if not p.stem.startswith("_"))
            if value not in options:
                return f"{key}={value}: no such option; allowed: {', '.join(options)}" + (
                    ", or the path of a pool file" if key == "pool" else ""
                )
        elif (unknown := _unknown_key(key.lstrip("+~"))) is not None:
            return f"{key}={value}: unknown key; {unknown}"
    refused = re.search(r"Could not override '([^']+)'", str(error))
    if refused:
        name = refused.group(1)
        top = name.partition(".")[0]
        chosen = pairs.get(top)
        return f"{name}: not a key of {f'{top}={chosen}' if chosen else f'the default {top}'}"
    return str(error).strip()


def _unknown_key(key: str) -> str | None:
    """Return what is allowed instead, or None when the key exists (or lies below a free-form mapping)."""
    nodes: list[type[BaseModel]] = [TradewindConfig]
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not nodes:
            return None
        fields = {name: field for node in nodes for name, field in node.model_fields.items()}
        if part not in fields:
            prefix = ".".join(parts[:depth])
            near = difflib.get_close_matches(part, fields, 1)
            hint = f"did you mean '{'.'.join([*parts[:depth], near[0]])}'? " if near else ""
            return f"{hint}allowed{f' below {prefix}' if prefix else ''}: {', '.join(fields)}"
        nodes = _models_of(fields[part].annotation)
    return None


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the configuration groups that an annotation admits: one, several of a union, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_of(part)]


def _key_of(location: tuple[int | str, ...]) -> str:
    """Return the configuration key of a pydantic location, which also names the union's chosen policy."""
    parts = [str(part) for part in location]
    if parts[:1] == ["policy"] and len(parts) > 2:
        del parts[1]
    return ".".join(parts)


def explain(error: ValidationError) -> str:
    """Return one line per problem: key, value and what is allowed."""
    lines = []
    for problem in error.errors():
        path = _key_of(problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            hint = _unknown_key(path)
            message = f"unknown key{'; ' + hint if hint else ''}"
            lines.append(f"{path}: {message}")
        elif problem["type"] == "value_error":
            lines.append(f"{path}: {message}")
        else:
            lines.append(f"{path}={problem['input']!r}: {message}")
    return "\n".join(lines)
