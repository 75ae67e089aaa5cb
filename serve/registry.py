"""Where served policies come from: folders, or the versions behind the aliases of the MLflow registry."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from policies.bundle import RouterBundle
from policies.errors import InputError
from policies.leftovers import remove_leftovers, temporary_beside
from serve.settings import ServeSettings

POLICY_VERSION_TAG = "policy_version"
"""Tag of a model version that holds the content hash of its policy artifact."""

ARTIFACT_PATH = "artifacts/policy"
"""Where a registered router keeps its policy artifact."""

CANARY, SHADOW, PREVIOUS = "canary", "shadow", "previous"
"""Aliases besides the champion's; ``previous`` is where a rollback goes."""

CANARY_PERCENT_TAG = "canary_percent"
"""Tag of the registered model: how much of the traffic the canary decides."""


@dataclass(frozen=True)
class Target:
    """A policy artifact that is wanted.

    Attributes:
        policy_version: content hash of the artifact.
        location: its folder, or where to download it.
        model_version: of the registry, None for a folder.
    """

    policy_version: str
    location: str
    model_version: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What should be served.

    Attributes:
        champion: decides by default.
        canary: decides ``canary_percent`` of the sessions.
        canary_percent: 0 to 100.
        shadow: decides along, without effect.
        pinned: may be named by requests.
    """

    champion: Target
    canary: Target | None = None
    canary_percent: float = 0.0
    shadow: Target | None = None
    pinned: tuple[Target, ...] = ()


def wanted(settings: ServeSettings) -> Wanted:
    """Return what the settings and the registry's aliases say should be served now.

    Raises:
        InputError: there is no such folder, model, alias or version.
    """
    releases = settings.releases
    if settings.bundle is not None:
        return Wanted(
            _folder("bundle", settings.bundle),
            None if releases.canary is None else _folder("releases.canary", releases.canary),
            releases.canary_percent or 0.0,
            None if releases.shadow is None else _folder("releases.shadow", releases.shadow),
            tuple(_folder("releases.pinned", path) for path in releases.pinned),
        )
    registry = Registry(settings)
    champion = registry.alias(settings.alias)
    if champion is None:
        raise InputError(f"{registry.where}@{settings.alias}: no such alias; register a policy first")
    return Wanted(
        champion,
        registry.version(releases.canary) if releases.canary else registry.alias(CANARY),
        releases.canary_percent if releases.canary_percent is not None else registry.canary_percent(),
        registry.version(releases.shadow) if releases.shadow else registry.alias(SHADOW),
        tuple(registry.version(version) for version in releases.pinned),
    )


def fetch(settings: ServeSettings, target: Target) -> Path:
    """Return the local folder of a wanted artifact, downloaded from the registry when it is not there yet.

    Downloads are kept by policy version (a content hash), so neither a moved alias nor a recreated registry can
    make an old artifact pass for a new one.

    Raises:
        InputError: the artifact is not the one that was registered.
    """
    if target.model_version is None:
        return Path(target.location)
    folder = Path(settings.cache_dir) / target.policy_version
    if not folder.exists():
        assert settings.tracking_uri is not None
        _download(f"{target.location}/{ARTIFACT_PATH}", settings.tracking_uri, folder)
    found = (folder / "VERSION").read_text().strip()
    if found != target.policy_version:
        assert settings.tracking_uri is not None
        where = f"{_shown(settings.tracking_uri)}: models:/{settings.model}/{target.model_version}"
        raise InputError(f"{where}: the artifact is policy {found}, registered as {target.policy_version}")
    return folder


def find_bundle(settings: ServeSettings) -> Path:
    """Return the local folder of the champion's policy artifact.

    Raises:
        InputError: there is no such folder, model or alias.
    """
    return fetch(settings, wanted(settings).champion)


def load_bundle(settings: ServeSettings) -> RouterBundle:
    """Return the champion's policy artifact.

    Raises:
        InputError: there is no such folder, model or alias, or the artifact is not the one registered.
    """
    return RouterBundle.load(find_bundle(settings))


class Registry:
    """The versions and aliases of one registered model.

    Args:
        settings: name the tracking URI, the model and the champion's alias.

    Raises:
        InputError: policies are served from folders.
    """

    def __init__(self, settings: ServeSettings) -> None:
        from mlflow.tracking import MlflowClient

        if settings.tracking_uri is None:
            raise InputError(
                f"bundle={settings.bundle}: served from a folder, which has no releases to change"
            )
        self._client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
        self._model = settings.model
        self._champion = settings.alias
        self.where = f"{_shown(settings.tracking_uri)}: models:/{settings.model}"

    def alias(self, alias: str) -> Target | None:
        """Return the version behind an alias, None when nothing is.

        Raises:
            InputError: there is no such model, or the version has no policy version.
        """
        from mlflow.exceptions import MlflowException

        aliases = self._aliases()
        try:
            return self.version(aliases[alias]) if alias in aliases else None
        except MlflowException as error:
            raise InputError(f"{self.where}@{alias}: {error.message}") from None

    def version(self, version: str) -> Target:
        """Return a version.

        Raises:
            InputError: there is none, or it has no policy version.
        """
        from mlflow.exceptions import MlflowException

        where = f"{self.where}/{version}"
        try:
            found = self._client.get_model_version(self._model, version)
            location = self._client.get_model_version_download_uri(self._model, version)
        except MlflowException as error:
            raise InputError(f"{where}: {error.message}") from None
        policy_version = found.tags.get(POLICY_VERSION_TAG)
        if not policy_version:
            raise InputError(f"{where}: version {version} has no tag '{POLICY_VERSION_TAG}'")
        return Target(policy_version, location, str(found.version))

    def canary_percent(self) -> float:
        """Return how much of the traffic the canary decides, 0 to 100.

        Raises:
            InputError: the tag is not a percentage.
        """
        text = self._registered().tags.get(CANARY_PERCENT_TAG, "0")
        try:
            percent = float(text)
        except ValueError:
            percent = -1.0
        if not 0.0 <= percent <= 100.0:
            raise InputError(f"{self.where}: tag {CANARY_PERCENT_TAG}={text!r}; allowed: 0 to 100")
        return percent

    def make_champion(self, version: str) -> None:
        """Move the champion's alias to a version; where it was becomes ``previous``.

        Raises:
            InputError: there is no such version.
        """
        target = self.version(version)
        before = self._aliases().get(self._champion)
        if before == target.model_version:
            return
        # Previous first: a failure in between leaves the champion as it was.
        if before is not None:
            self._client.set_registered_model_alias(self._model, PREVIOUS, before)
        self._client.set_registered_model_alias(self._model, self._champion, version)

    def need(self, alias: str) -> Target:
        """Return the version behind an alias.

        Raises:
            InputError: there is none.
        """
        target = self.alias(alias)
        if target is None:
            raise InputError(f"{self.where}: no alias '{alias}'")
        return target

    def previous(self) -> Target:
        """Return the champion before this one.

        Raises:
            InputError: there is none.
        """
        return self.need(PREVIOUS)

    def roll_back(self) -> Target:
        """Make the previous champion the champion again, and return it. Doing so twice returns to the start.

        Raises:
            InputError: there is no previous champion.
        """
        target = self.previous()
        assert target.model_version is not None
        self.make_champion(target.model_version)
        return target

    def set_canary(self, version: str, percent: float) -> None:
        """Let a version decide a part of the traffic, 0 to 100 per cent."""
        self._client.set_registered_model_tag(self._model, CANARY_PERCENT_TAG, f"{percent:g}")
        self._client.set_registered_model_alias(self._model, CANARY, version)

    def set_shadow(self, version: str) -> None:
        """Let a version decide along, without effect."""
        self._client.set_registered_model_alias(self._model, SHADOW, version)

    def clear(self, alias: str) -> None:
        """Take an alias away."""
        if alias in self._aliases():
            self._client.delete_registered_model_alias(self._model, alias)

    def _aliases(self) -> dict[str, str]:
        return {alias: str(version) for alias, version in self._registered().aliases.items()}

    def _registered(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self._model)
        except MlflowException as error:
            raise InputError(f"{self.where}: {error.message}; register a policy first") from None


def _shown(uri: str) -> str:
    """Return a URI without the name and password that it may hold."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _folder(key: str, path: str) -> Target:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{key}={folder}: no such folder")
    try:
        return Target((folder / "VERSION").read_text().strip(), str(folder))
    except OSError:
        raise InputError(f"{key}={folder}: not a policy artifact (no VERSION)") from None


def _download(artifact_uri: str, tracking_uri: str, folder: Path) -> None:
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    staging = temporary_beside(folder)
    staging.mkdir(parents=True)
    remove_leftovers(folder.parent, folder.name)
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
