"""Which prompts train, which choose, which judge: decided by a hash of the text, so that copies stay together.

Paraphrases are known once there are vectors: the stage ``embed`` then gives every group of them one split.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.config.data import DataConfig
from policies.errors import InputError

TRAIN, VALIDATION, TEST, OOD = "train", "validation", "test", "ood"
SPLITS = (TRAIN, VALIDATION, TEST, OOD)

_NOT_WORD = re.compile(r"[^\w]+")


def text_key(prompt: str) -> str:
    """Return the prompt with case, punctuation and spacing taken away: what makes two prompts the same."""
    return _NOT_WORD.sub(" ", prompt.casefold()).strip()


def assign_splits(prompts: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return ``prompt_id, split`` for every prompt, in order.

    Prompts of ``ood_tasks`` are held out, with every copy of theirs under another task. The rest are
    dealt by the hash of their text, so that the split of a prompt never depends on the other prompts.

    Raises:
        InputError: an ``ood_tasks`` entry is no task of the table, or nothing is left to train on.
    """
    tasks = prompts["task"].fill_null("").to_numpy()
    for task in config.ood_tasks:
        if task not in set(tasks):
            known = ", ".join(sorted(set(tasks) - {""})) or "(the prompts have no tasks)"
            raise InputError(f"data.ood_tasks: no prompt has task '{task}'; allowed: {known}")
    keys = [text_key(prompt) for prompt in prompts["prompt"]]
    held_out = {key for key, task in zip(keys, tasks) if task in config.ood_tasks}
    points = np.array([_unit_hash(config.split.salt, key) for key in keys])
    bounds = np.array([config.split.train, config.split.train + config.split.validation])
    names = np.array([TRAIN, VALIDATION, TEST], dtype=object)[np.searchsorted(bounds, points, side="right")]
    names[[key in held_out for key in keys]] = OOD
    if not (names == TRAIN).any():
        raise InputError(f"data.split: none of the {len(names)} prompts falls into the training split")
    return pl.DataFrame({"prompt_id": prompts["prompt_id"], "split": names.astype(str)})


def join_groups(
    splits: npt.NDArray[np.object_], keys: npt.NDArray[np.object_], labels: npt.NDArray[np.int64], salt: str
) -> npt.NDArray[np.object_]:
    """Return the splits with every group of prompts on one side.

    A group with a prompt of a held-out task is held out; any other takes the split of one of its prompts, drawn
    by a second hash, so that groups are dealt in the same shares as prompts.

    Args:
        splits: shape (n,), the split of each prompt by itself.
        keys: shape (n,), text keys; copies have one split.
        labels: shape (n,), equal for prompts of one group.
        salt: of the split.

    Raises:
        InputError: nothing is left to train on.
    """
    drawn = np.array([_unit_hash(f"{salt}\x00group", key) for key in keys])
    frame = pl.DataFrame({"split": splits.astype(str), "label": labels, "drawn": drawn})
    leader = pl.col("split").sort_by("drawn").first()
    held_out = (pl.col("split") == OOD).any()
    joined = frame.select(pl.when(held_out).then(pl.lit(OOD)).otherwise(leader).over("label"))
    result = joined.to_series().to_numpy().astype(object)
    if (splits == TRAIN).any() and not (result == TRAIN).any():
        raise InputError(
            f"data.split.paraphrase_cosine: grouping leaves none of the {len(splits)} prompts to train on; "
            "a higher value groups fewer, null none"
        )
    return result


def _unit_hash(salt: str, key: str) -> float:
    digest = hashlib.blake2b(f"{salt}\x00{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
