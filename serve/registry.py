"""Where the served policy comes from: a folder, or the version behind an alias of the MLflow registry."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from policies.bundle import RouterBundle
from policies.errors import InputError
from serve.settings import ServeSettings

POLICY_VERSION_TAG = "policy_version"
"""Tag of a model version that holds the content hash of its policy artifact."""

ARTIFACT_PATH = "artifacts/policy"
"""Where a registered router keeps its policy artifact."""


def load_bundle(settings: ServeSettings) -> RouterBundle:
    """Return the policy artifact to serve.

    Raises:
        InputError: there is no such folder, model or alias, or the artifact is not the one registered.
    """
    return RouterBundle.load(find_bundle(settings))


def find_bundle(settings: ServeSettings) -> Path:
    """Return the local folder of the policy artifact, downloaded from the registry when it is not there yet.

    Downloads are kept by policy version (a content hash), so neither a moved alias nor a recreated registry can
    make an old artifact pass for a new one.

    Raises:
        InputError: there is no such folder, model or alias.
    """
    if settings.bundle is not None:
        folder = Path(settings.bundle)
        if not folder.is_dir():
            raise InputError(f"bundle={folder}: no such folder")
        return folder
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    assert settings.tracking_uri is not None
    where = f"{settings.tracking_uri}: models:/{settings.model}@{settings.alias}"
    try:
        client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
        version = client.get_model_version_by_alias(settings.model, settings.alias)
    except MlflowException as error:
        raise InputError(f"{where}: {error.message}; register a policy first") from None
    policy_version = version.tags.get(POLICY_VERSION_TAG)
    if not policy_version:
        raise InputError(f"{where}: version {version.version} has no tag '{POLICY_VERSION_TAG}'")
    folder = Path(settings.cache_dir) / policy_version
    if not folder.exists():
        source = client.get_model_version_download_uri(settings.model, version.version)
        _download(f"{source}/{ARTIFACT_PATH}", settings.tracking_uri, folder)
    found = (folder / "VERSION").read_text().strip()
    if found != policy_version:
        raise InputError(f"{where}: the artifact is policy {found}, registered as {policy_version}")
    return folder


def _download(artifact_uri: str, tracking_uri: str, folder: Path) -> None:
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    staging = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    staging.mkdir(parents=True)
    try:
        downloaded = mlflow.artifacts.download_artifacts(
            artifact_uri=artifact_uri, dst_path=str(staging), tracking_uri=tracking_uri
        )
        try:
            Path(downloaded).replace(folder)
        except OSError:
            # Another replica was faster; what it put there has the same content hash.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
