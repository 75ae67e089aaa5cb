"""Benchmarks by name from the Hugging Face hub, with its cache."""

from __future__ import annotations

from pathlib import Path

from pipeline.loaders.base import Loader
from policies.errors import InputError


def download(name: str, loader: Loader) -> Path:
    """Return the local folder of the benchmark's files, downloading what the hub's cache lacks.

    Raises:
        InputError: the files are not on the hub, or the hub cannot be reached; the message says where they
            are and offers ``data.path``.
    """
    offer = f"get the files from {loader.origin} and give data.path=PATH"
    if loader.hub is None:
        raise InputError(f"data.benchmark={name}: {loader.title} cannot be downloaded by name; {offer}")
    from huggingface_hub import snapshot_download

    hub = loader.hub
    try:
        folder = Path(snapshot_download(hub.repo_id, repo_type="dataset", allow_patterns=list(hub.patterns)))
    except Exception as error:  # the client passes on the errors of whichever HTTP library it uses
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"data.benchmark={name}: {hub.repo_id} could not be downloaded (offline, or the hub does not "
            f"answer: {reason}); {offer}"
        ) from None
    if not any(True for pattern in hub.patterns for _ in folder.rglob(pattern)):
        raise InputError(
            f"data.benchmark={name}: {folder} holds no {', '.join(hub.patterns)} of {hub.repo_id} (offline "
            f"with an incomplete cache?); {offer}"
        )
    return folder
