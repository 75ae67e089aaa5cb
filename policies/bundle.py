"""The artifact that is evaluated, registered and served: a policy with all that it needs to decide."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from policies.base import Policy
from policies.costs import CostModel
from policies.errors import InputError
from policies.leftovers import put_in_place, remove_leftovers, temporary_beside
from policies.pool import ModelPool, read_pool_file
from policies.registry import policy_class

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EncoderIdentity:
    """Which frozen encoder the policy was trained on; vectors of another one are refused.

    Attributes:
        name: configured name of the encoder.
        weights_sha256: hash of the weights file.
        backend: what ran it (``torch-fp32``, ``openvino-bf16`` ...).
        dimension: length of a vector.
        max_tokens: where longer texts were cut, special tokens included.
    """

    name: str
    weights_sha256: str
    backend: str
    dimension: int
    max_tokens: int = 256


@dataclass(frozen=True)
class TrainingMeans:
    """What each model did in training, in column order.

    Attributes:
        scores: mean score; None where none was observed.
        latencies_s: mean latency in seconds; None where none was observed.
    """

    scores: tuple[float | None, ...]
    latencies_s: tuple[float | None, ...]


@dataclass(frozen=True)
class RouterBundle:
    """A deployable router.

    Attributes:
        policy: the decision rule.
        pool: models and prices, in column order.
        encoder: the encoder whose vectors the policy expects.
        cost_model: expected cost per call.
        tau_usd: cost scale of the reward it was trained with.
        policy_version: content hash of the artifact, empty until saved.
        notes: what training recorded (seed, mode, data hashes).
        training_means: None in artifacts that were written without them.
    """

    policy: Policy
    pool: ModelPool
    encoder: EncoderIdentity
    cost_model: CostModel
    tau_usd: float
    policy_version: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    training_means: TrainingMeans | None = None

    def save(self, directory: Path) -> str:
        """Write the bundle to ``directory`` (replaced as a whole) and return its policy version."""
        staging = temporary_beside(directory)
        staging.mkdir(parents=True)
        try:
            (staging / "policy").mkdir()
            self.policy.save(staging / "policy")
            self.pool.write(staging / "pool.yaml")
            body = {
                "format_version": FORMAT_VERSION,
                "policy_kind": self.policy.kind,
                "pool": self.pool.name,
                "encoder": asdict(self.encoder),
                "cost_model": self.cost_model.to_dict(),
                "tau_usd": self.tau_usd,
                "notes": self.notes,
            }
            if self.training_means is not None:
                body["training_means"] = asdict(self.training_means)
            (staging / "bundle.json").write_text(json.dumps(body, indent=2, sort_keys=True) + "\n")
            version = _content_version(self.policy.kind, staging)
            (staging / "VERSION").write_text(version + "\n")
            put_in_place(staging, directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        remove_leftovers(directory.parent, directory.name)
        return version

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a bundle written by :meth:`save`.

        Raises:
            InputError: the directory is not a bundle, or of another format version.
        """
        path = directory / "bundle.json"
        if not path.exists():
            raise InputError(f"{directory}: not a policy artifact (no bundle.json)")
        body = json.loads(path.read_text())
        if body["format_version"] != FORMAT_VERSION:
            raise InputError(f"{path}: format_version {body['format_version']}; allowed: {FORMAT_VERSION}")
        pool = read_pool_file(directory / "pool.yaml").pool(body["pool"])
        return cls(
            policy=policy_class(body["policy_kind"]).load(directory / "policy", pool.models),
            pool=pool,
            encoder=EncoderIdentity(**body["encoder"]),
            cost_model=CostModel.from_dict(body["cost_model"]),
            tau_usd=float(body["tau_usd"]),
            policy_version=(directory / "VERSION").read_text().strip(),
            notes=body["notes"],
            training_means=_means(body.get("training_means")),
        )


def _means(body: dict[str, Any] | None) -> TrainingMeans | None:
    return None if body is None else TrainingMeans(tuple(body["scores"]), tuple(body["latencies_s"]))


def _content_version(kind: str, directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "VERSION"):
        digest.update(path.relative_to(directory).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{kind}-{digest.hexdigest()[:12]}"
