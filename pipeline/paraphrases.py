"""Which prompts say the same: copies of a text, and paraphrases by the encoder's vectors."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.splits import text_key

MAX_COMPARED = 100_000
"""Most prompts with the same numbers that are compared pair by pair; the work grows with the square."""

MAX_GROUP_SHARE = 0.01
"""A larger share of all prompts in one group is a template, not a paraphrase."""

MIN_GROUP_LIMIT = 20
"""Groups up to this size stay whole however few prompts there are."""

STRICTER = 3.0
"""A group that is too large is parted at the cosine distance divided by this."""

STRICTEST_DISTANCE = 0.005
"""Cosine distance at which parting a group stops; rounding of half precision is about 0.001."""

LEADING = 96
"""Principal directions compared first: most pairs are far apart in them already."""

FEW = 2_000
"""Below this number of prompts finding the directions takes longer than they save."""

ROUNDING = 1e-4
"""Slack of the first comparison."""

DENSE = 0.02
"""Share of pairs left after the first comparison from which one product is cheaper than single pairs."""

BLOCK_ENTRIES = 4_000_000
"""Similarities held at once (16 MB)."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

Labels = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PromptGroups:
    """Prompts that must not be separated.

    Attributes:
        keys: shape (n,), the text key of each prompt.
        labels: shape (n,), equal for prompts of one group.
        n_not_compared: prompts of which only copies of the text were looked for (see ``MAX_COMPARED``).
    """

    keys: npt.NDArray[np.object_]
    labels: Labels
    n_not_compared: int


def numbers_in(text: str) -> tuple[str, ...]:
    """Return the numbers of a text, sorted: 'what is 3 + 4' and 'what is 5 + 9' are different questions."""
    return tuple(sorted(_NUMBER.findall(_THOUSANDS.sub("", text))))


def group_prompts(texts: list[str], vectors: Vectors, min_cosine: float) -> PromptGroups:
    """Return groups of prompts that say the same.

    Two prompts are neighbours where their texts are copies (:func:`pipeline.splits.text_key`), or where the
    cosine of their vectors is at least ``min_cosine`` and both hold the same numbers; groups are the connected
    components. A component of more than ``MAX_GROUP_SHARE`` of all prompts is a template whose members differ in
    a word ('Sort by hardness: ..'), or shares a beginning beyond which the encoder does not read: it is parted at
    a stricter threshold, and again, until its parts are small enough; copies always stay together. The result
    depends on the set of prompts, not on their order.

    Args:
        texts: n prompts.
        vectors: shape (n, d), of any length but 0.
        min_cosine: in (0, 1].
    """
    keys = [text_key(text) for text in texts]
    # One vector a key, in an order that the table's order cannot change: rounding is then the same, too.
    first: dict[str, int] = {}
    for row in sorted(range(len(texts)), key=lambda i: (keys[i], texts[i])):
        first.setdefault(keys[row], row)
    rows = np.fromiter(first.values(), dtype=np.int64)
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        families[numbers_in(texts[row])].append(at)
    unit = np.asarray(vectors, dtype=np.float32)[rows]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    copies = np.bincount(_codes(keys, first))
    limit = max(MIN_GROUP_LIMIT, int(MAX_GROUP_SHARE * len(texts)))

    labels = np.arange(len(rows))
    skipped = 0
    for family in families.values():
        members = np.array(family)
        if len(members) > MAX_COMPARED:
            skipped += len(members)
        elif len(members) > 1:
            labels[members] = members[_components(unit[members], min_cosine, copies[members], limit)]
    codes = _codes(keys, first)
    return PromptGroups(np.array(keys, dtype=object), labels[codes], skipped)


def _codes(keys: list[str], first: dict[str, int]) -> Labels:
    position = {key: at for at, key in enumerate(first)}
    return np.array([position[key] for key in keys], dtype=np.int64)


def _components(unit: npt.NDArray[np.float32], min_cosine: float, weights: Labels, limit: int) -> Labels:
    """Return for each row the first row of its group, shape (n,); ``weights`` counts the prompts of a row."""
    labels = _linked(unit, min_cosine)
    distance = (1.0 - min_cosine) / STRICTER
    sizes = np.bincount(labels, weights=weights, minlength=len(unit))
    for label in np.flatnonzero(sizes > limit):
        members = np.flatnonzero(labels == label)
        if len(members) == 1:
            continue
        if distance < STRICTEST_DISTANCE:
            labels[members] = members
        else:
            labels[members] = members[_components(unit[members], 1.0 - distance, weights[members], limit)]
    return labels


def _linked(unit: npt.NDArray[np.float32], min_cosine: float) -> Labels:
    """Return the first row of each row's connected component, block by block over the upper triangle."""
    n = len(unit)
    labels = np.arange(n)
    leading = _leading(unit)
    start = 0
    while start < n:
        stop = min(n, start + max(1, BLOCK_ENTRIES // (n - start)))
        a, b = _pairs(leading[start:stop] @ leading[start:].T, min_cosine - ROUNDING, start)
        if len(a) > DENSE * (stop - start) * (n - start):
            a, b = _pairs(unit[start:stop] @ unit[start:].T, min_cosine, start)
        else:
            near = np.einsum("ij,ij->i", unit[a], unit[b]) >= min_cosine
            a, b = a[near], b[near]
        new = labels[a] != labels[b]
        if new.any():
            # Rows point to the first of their component so far: a forest, whatever the number of pairs.
            edges = (np.concatenate([a[new], np.arange(n)]), np.concatenate([b[new], labels]))
            graph = coo_matrix((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(n, n))
            component = connected_components(graph, directed=False)[1]
            labels = np.unique(component, return_index=True)[1][component]
        start = stop
    return labels


def _leading(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows whose products are upper bounds of the rows' cosines, shape (n, LEADING + 1).

    By Cauchy and Schwarz what is left beyond the leading directions adds at most the product of its lengths.
    """
    if unit.shape[1] <= LEADING or len(unit) < FEW:
        return unit
    directions = np.linalg.eigh(unit.T.astype(np.float64) @ unit)[1][:, : -LEADING - 1 : -1]
    leading = unit @ directions.astype(np.float32)
    rest = np.sqrt(np.maximum(1.0 - (leading**2).sum(axis=1, keepdims=True), 0.0))
    return np.concatenate([leading, rest], axis=1)


def _pairs(products: npt.NDArray[np.float32], least: float, start: int) -> tuple[Labels, Labels]:
    """Return the pairs of rows above the diagonal with a product of at least ``least``."""
    width = products.shape[1]
    near = np.flatnonzero(products.ravel() >= least)
    a, b = near // width + start, near % width + start
    return a[a < b], b[a < b]
