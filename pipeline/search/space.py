"""The search space: configuration keys with ranges, and the forms that Optuna, Tune and PB2 want them in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from pydantic import ValidationError
from ray import tune
from ray.tune.search.sample import Domain

from pipeline.compose import explain
from pipeline.config import TradewindConfig
from pipeline.config.tune import Choices, Dimension, Interval
from policies.errors import InputError


@dataclass(frozen=True)
class SearchSpace:
    """Configuration key -> what may be tried.

    A *point* is what a searcher handles (choices as JSON text, since Optuna wants primitive categories; with
    ``log10`` the logarithm of log-scaled intervals, since PB2's Gaussian process knows no other scale).
    *Values* are what goes into the configuration.

    Attributes:
        dimensions: by configuration key, in the order of the space.
        log10: whether points hold logarithms.
    """

    dimensions: dict[str, Dimension]
    log10: bool = False

    def including(self, config: TradewindConfig) -> SearchSpace:
        """Return the space with each configured choice among the choices, so that the defaults are a point."""
        grown = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                now = lookup(config, key)
                if now not in [_plain(choice) for choice in dimension.choices]:
                    dimension = Choices(choices=(*dimension.choices, now))
            grown[key] = dimension
        return SearchSpace(grown, self.log10)

    def check(self, config: TradewindConfig) -> None:
        """Check that every end and choice is a valid setting.

        Raises:
            InputError: an unknown key, or a value that the configuration does not allow.
        """
        for key, dimension in self.dimensions.items():
            ends = dimension.choices if isinstance(dimension, Choices) else (dimension.low, dimension.high)
            for value in ends:
                with_values(config, {key: _plain(value)})

    def point_of(self, config: TradewindConfig) -> dict[str, Any]:
        """Return the point nearest to the configured values."""
        point: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            now = lookup(config, key)
            if isinstance(dimension, Choices):
                point[key] = json.dumps(now)
                continue
            # An unset value has no place in an interval: its middle stands for it.
            middle = math.sqrt(dimension.low * dimension.high) if dimension.log else None
            unset = middle or (dimension.low + dimension.high) / 2
            value = min(max(float(unset if now is None else now), dimension.low), dimension.high)
            point[key] = math.log10(value) if self.log10 and dimension.log else value
        return point

    def values_of(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return a point's values."""
        values = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                values[key] = json.loads(point[key])
            else:
                value = 10.0 ** point[key] if self.log10 and dimension.log else float(point[key])
                # Four digits, so that a printed value is the value. Searchers calculate in float32 or in
                # logarithms and may step over an end by a rounding.
                value = min(max(float(f"{value:.4g}"), dimension.low), dimension.high)
                values[key] = round(value) if dimension.integer else value
        return values

    def optuna_distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the space for Optuna."""
        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                found[key] = optuna.distributions.CategoricalDistribution(_texts(dimension))
            else:
                found[key] = optuna.distributions.FloatDistribution(
                    dimension.low, dimension.high, log=dimension.log
                )
        return found

    def tune_domains(self) -> dict[str, Domain]:
        """Return the space for Tune's random search."""
        found: dict[str, Domain] = {}
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choices):
                found[key] = tune.choice(_texts(dimension))
            elif dimension.log and not self.log10:
                found[key] = tune.loguniform(dimension.low, dimension.high)
            else:
                found[key] = tune.uniform(*self._bounds(dimension))
        return found

    def bounds(self) -> dict[str, list[float]]:
        """Return the intervals, in units of points: what PB2 may change while a trial runs."""
        return {
            key: list(self._bounds(dimension))
            for key, dimension in self.dimensions.items()
            if isinstance(dimension, Interval)
        }

    def _bounds(self, dimension: Interval) -> tuple[float, float]:
        if self.log10 and dimension.log:
            return math.log10(dimension.low), math.log10(dimension.high)
        return dimension.low, dimension.high


def lookup(config: TradewindConfig, key: str) -> Any:
    """Return the configured plain value of a dotted key.

    Raises:
        InputError: there is no such key.
    """
    node: Any = config.plain()
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            with_values(config, {key: None})
            raise InputError(f"tune.space: {key}: unknown key")
        node = node[part]
    return node


def with_values(config: TradewindConfig, values: Mapping[str, Any]) -> TradewindConfig:
    """Return the configuration with dotted keys set.

    Raises:
        InputError: an unknown key, or a value out of its range.
    """
    raw = config.plain()
    for key, value in values.items():
        *groups, name = key.split(".")
        node = raw
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise InputError(f"tune.space: {key}: unknown key; '{group}' has no keys below it")
        node[name] = value
    try:
        return TradewindConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"tune.space: {explain(error)}") from None


def override_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, float):
        return f"{value:.8g}"
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else str(value)


def _texts(dimension: Choices) -> list[str]:
    return [json.dumps(_plain(choice)) for choice in dimension.choices]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
