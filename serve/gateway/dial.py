"""Where a chat client sets the dial: in the model's name, or in a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.preference import normalise_preference
from serve.api.errors import ApiError
from serve.settings.gateway import GatewaySettings

W_COST_HEADER = "x-tradewind-w-cost"
SEPARATOR = ":"


@dataclass(frozen=True)
class Dial:
    """What a model name asks for.

    Attributes:
        preference: (w_quality, w_cost) on the simplex.
        pinned: the model of the pool that was named, None to choose one.
    """

    preference: tuple[float, float]
    pinned: str | None


def read_dial(
    name: str,
    header: str | None,
    settings: GatewaySettings,
    models: Sequence[str],
    presets: Mapping[str, float],
) -> Dial:
    """Return the point of the dial, or the model, that a request names.

    ``tradewind`` takes the header's ``w_cost``, else the default; ``tradewind:0.3`` and ``tradewind:PRESET`` say
    it themselves and win over the header, which clients send with every request.

    Args:
        name: model as the request names it.
        header: value of ``x-tradewind-w-cost``, None when absent.
        settings: of the gateway.
        models: models of the pool.
        presets: w_cost by name.

    Raises:
        ApiError: 404 for an unknown model, 400 for a bad weight.
    """
    router, separator, point = name.partition(SEPARATOR)
    if router == settings.name and not (separator and name in models):
        if not separator:
            if header is None:
                return Dial(normalise_preference(None, settings.default_w_cost), None)
            return Dial(_weight(header, W_COST_HEADER), None)
        if point in presets:
            return Dial(normalise_preference(None, presets[point]), None)
        try:
            return Dial(_weight(point, "model"), None)
        except ApiError:
            known = f" or one of {', '.join(presets)}" if presets else ""
            raise _unknown(name, f"after '{router}:' comes w_cost from 0 to 1{known}") from None
    if name in models:
        preference = normalise_preference(None, settings.default_w_cost)
        return Dial(preference if header is None else _weight(header, W_COST_HEADER), name)
    raise _unknown(name, f"allowed: {', '.join([settings.name, *models])}")


def _weight(text: str, param: str) -> tuple[float, float]:
    try:
        return normalise_preference(None, float(text))
    except ValueError:
        raise ApiError(
            400, "invalid_request", f"{param}: {text!r}; allowed: a number from 0 to 1", param
        ) from None


def _unknown(name: str, allowed: str) -> ApiError:
    return ApiError(404, "model_not_found", f"the model {name!r} does not exist; {allowed}", "model")
