"""Stage `rollback`: the previous champion becomes the champion again; a running endpoint follows by itself."""

from __future__ import annotations

from pipeline.config import TradewindConfig
from pipeline.console import say
from pipeline.tracker import tracking_uri
from policies.errors import InputError
from serve.registry import Registry, Target
from serve.settings import ServeSettings


def run(config: TradewindConfig) -> Target:
    """Move the alias back to the version that had it before; once more undoes it.

    Raises:
        InputError: there is no registered model, or there has been one champion only.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(config)
    settings = ServeSettings(tracking_uri=uri, model=config.tracking.model, alias=config.tracking.alias)
    try:
        target = Registry(settings).roll_back()
    except MlflowException as error:
        raise InputError(f"tracking.uri={uri}: {error.message}") from None
    say(
        f"{config.tracking.model}: '{config.tracking.alias}' is version {target.model_version} again, policy "
        f"{target.policy_version}"
    )
    return target
