"""The model pool: which models may be called, and at what price.

A pool file is YAML with a section per model and, optionally, named subsets::

    models:
      atlas-mini: {input_price_per_mtok_usd: 0.15, output_price_per_mtok_usd: 0.6,
                   context_window_tokens: 128000, endpoint: "http://host/v1", tags: [text], family: atlas}
      calculator: {kind: tool, price_per_call_usd: 0.000001, tags: [arithmetic]}
    pools:
      default: [atlas-mini, calculator]

A tool or an API is an arm like any model: it has a price per call, and what it can do is learned from its outcomes.

The short section ``prices: {model: {input: 0.15, output: 0.6}}`` (USD per million tokens) is read as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import fsspec
import numpy as np
import numpy.typing as npt
import yaml

from policies.errors import InputError

ALL = "all"
"""The pool name that stands for every model of the file."""


Kind = Literal["model", "tool"]


@dataclass(frozen=True)
class ModelSpec:
    """One callable arm: a language model, or a tool or an API with a price.

    Attributes:
        name: the model's name, as in the outcome table and the log.
        input_price_per_mtok_usd: USD per million prompt tokens, 0 for a tool unless given.
        output_price_per_mtok_usd: USD per million completion tokens, 0 for a tool unless given.
        context_window_tokens: longest prompt plus completion, None when unknown.
        endpoint: base URL of an OpenAI-compatible upstream, if any; an arm without one is for decisions alone.
        tags: capabilities, free form.
        kind: a language model, or a tool.
        price_per_call_usd: USD per call, beside what its tokens cost.
        family: models that are shown together, such as those of one maker; None tells nothing.
    """

    name: str
    input_price_per_mtok_usd: float
    output_price_per_mtok_usd: float
    context_window_tokens: int | None = None
    endpoint: str | None = None
    tags: tuple[str, ...] = ()
    kind: Kind = "model"
    price_per_call_usd: float = 0.0
    family: str | None = None

    def cost_usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the price of one call in USD."""
        per_token = (
            prompt_tokens * self.input_price_per_mtok_usd + completion_tokens * self.output_price_per_mtok_usd
        )
        return self.price_per_call_usd + per_token / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a pool file, without the name; what is new to the format only where it says something."""
        body = {**asdict(self), "tags": list(self.tags)}
        for key, silent in _OPTIONAL.items():
            if body[key] == silent:
                del body[key]
        del body["name"]
        return body


_OPTIONAL: dict[str, Any] = {"kind": "model", "price_per_call_usd": 0.0, "family": None}
"""Left out of a written pool where they say nothing: the version of an artifact hangs on its bytes."""


@dataclass(frozen=True)
class ModelPool:
    """An ordered set of models; the order is that of every probability matrix."""

    name: str
    specs: tuple[ModelSpec, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Names in order, shape (n_models,)."""
        return tuple(spec.name for spec in self.specs)

    @property
    def prices_per_call_usd(self) -> npt.NDArray[np.float64]:
        """What a call costs beside its tokens, USD, shape (n_models,)."""
        return np.array([spec.price_per_call_usd for spec in self.specs], dtype=np.float64)

    @property
    def prices_per_token_usd(self) -> npt.NDArray[np.float64]:
        """Input and output price of one token, USD, shape (n_models, 2)."""
        per_mtok = [(s.input_price_per_mtok_usd, s.output_price_per_mtok_usd) for s in self.specs]
        return np.array(per_mtok, dtype=np.float64) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Return the pool in the form of a pool file."""
        models = {spec.name: spec.to_dict() for spec in self.specs}
        return {"models": models, "pools": {self.name: list(self.models)}}

    def write(self, path: Path) -> None:
        """Write the pool as a pool file."""
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))


_FIELDS = {f.name for f in fields(ModelSpec)} - {"name"}


def _price(path: str, model: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < np.inf:
        raise InputError(
            f"{path}: model '{model}', key '{key}': {value!r} is not a price; allowed: a number >= 0"
        )
    return float(value)


def _spec(path: str, model: str, body: Any) -> ModelSpec:
    if not isinstance(body, dict):
        raise InputError(f"{path}: model '{model}': {body!r} is not a mapping of {sorted(_FIELDS)}")
    unknown = sorted(set(body) - _FIELDS)
    if unknown:
        raise InputError(f"{path}: model '{model}': unknown key '{unknown[0]}'; allowed: {sorted(_FIELDS)}")
    kind = body.get("kind", "model")
    if kind not in get_args(Kind):
        raise InputError(
            f"{path}: model '{model}', key 'kind': {kind!r}; allowed: {', '.join(get_args(Kind))}"
        )
    prices = {}
    for key in ("input_price_per_mtok_usd", "output_price_per_mtok_usd", "price_per_call_usd"):
        if key not in body and (key == "price_per_call_usd") == (kind == "tool"):
            raise InputError(f"{path}: model '{model}': key '{key}' is missing")
        prices[key] = _price(path, model, key, body.get(key, 0.0))
    window = body.get("context_window_tokens")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window <= 0):
        raise InputError(
            f"{path}: model '{model}', key 'context_window_tokens': {window!r}; allowed: a positive integer"
        )
    for key, allowed in (("endpoint", "a URL"), ("family", "a name")):
        if body.get(key) is not None and not (isinstance(body[key], str) and body[key]):
            raise InputError(f"{path}: model '{model}', key '{key}': {body[key]!r}; allowed: {allowed}")
    tags = body.get("tags") or ()
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise InputError(f"{path}: model '{model}', key 'tags': {tags!r}; allowed: a list of strings")
    return ModelSpec(
        model,
        **prices,
        context_window_tokens=window,
        endpoint=body.get("endpoint"),
        tags=tuple(tags),
        kind=kind,
        family=body.get("family"),
    )


def _file_specs(path: str, content: dict[str, Any]) -> dict[str, ModelSpec]:
    unknown = sorted(set(content) - {"models", "prices", "pools"})
    if unknown:
        raise InputError(f"{path}: unknown section '{unknown[0]}'; allowed: models, prices, pools")
    specs = {model: _spec(path, model, body) for model, body in (content.get("models") or {}).items()}
    for model, body in (content.get("prices") or {}).items():
        if not isinstance(body, dict) or set(body) != {"input", "output"}:
            raise InputError(f"{path}: prices of '{model}': {body!r}; allowed: {{input: .., output: ..}}")
        specs[model] = ModelSpec(
            model,
            _price(path, model, "prices.input", body["input"]),
            _price(path, model, "prices.output", body["output"]),
        )
    if not specs:
        raise InputError(f"{path}: no model; expected a section 'models' or 'prices'")
    return specs


@dataclass(frozen=True)
class PoolFile:
    """A parsed pool file: every model it prices and its named subsets."""

    path: str
    specs: dict[str, ModelSpec]
    pools: dict[str, tuple[str, ...]]

    def pool(self, name: str) -> ModelPool:
        """Return the pool called ``name``; ``all`` stands for every model unless the file says otherwise.

        Raises:
            InputError: the file has no such pool.
        """
        if name in self.pools:
            return ModelPool(name, tuple(self.specs[m] for m in self.pools[name]))
        if name == ALL:
            return ModelPool(name, tuple(self.specs.values()))
        allowed = sorted({*self.pools, ALL})
        raise InputError(f"{self.path}: no pool '{name}'; allowed: {', '.join(allowed)}")


def read_pool_file(path: str | Path) -> PoolFile:
    """Read and check a pool file from local disk or any fsspec URI.

    Raises:
        InputError: the file is missing or malformed; the message names the model, key, value and what is
            allowed.
    """
    name = str(path)
    try:
        with fsspec.open(name, "rt") as stream:
            content = yaml.safe_load(stream)
    except FileNotFoundError:
        raise InputError(f"{name}: no such pool file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected a mapping with sections models, prices, pools")
    specs = _file_specs(name, content)
    pools = {}
    for pool, members in (content.get("pools") or {}).items():
        if not isinstance(members, list) or not members:
            raise InputError(f"{name}: pool '{pool}': {members!r}; allowed: a non-empty list of models")
        for model in members:
            if model not in specs:
                raise InputError(f"{name}: pool '{pool}': model '{model}' has no price in this file")
        if len(set(members)) != len(members):
            raise InputError(f"{name}: pool '{pool}' names a model twice")
        pools[pool] = tuple(members)
    return PoolFile(name, specs, pools)
