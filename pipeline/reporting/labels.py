"""Where to write the names of points in a scatter plot so that they cover neither each other nor the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHARACTER_WIDTH = 0.58
"""Mean width of a letter of a sans-serif face, in font sizes."""

# (dx, dy) of the text's anchor from the point in units of the gap, and its alignment; best places first.
_PLACES = (
    (1.0, 0.0, "left"), (-1.0, 0.0, "right"), (0.0, -1.3, "center"), (0.0, 1.3, "center"),
    (0.8, -1.1, "left"), (0.8, 1.1, "left"), (-0.8, -1.1, "right"), (-0.8, 1.1, "right"),
    (0.6, -2.2, "left"), (0.6, 2.2, "left"), (-0.6, -2.2, "right"), (-0.6, 2.2, "right"),
    (0.0, -3.0, "center"), (0.0, 3.0, "center"), (2.4, 1.6, "left"), (2.4, -1.6, "left"),
    (-2.4, 1.6, "right"), (-2.4, -1.6, "right"), (2.4, 3.2, "left"), (-2.4, -3.2, "right"),
    (4.0, 0.0, "left"), (-4.0, 0.0, "right"), (4.0, 2.4, "left"), (4.0, -2.4, "left"),
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A placed text: offset of its anchor from the point in pixels, and ``left``, ``center`` or ``right``."""

    dx: float
    dy: float
    align: str


def place_labels(
    points: npt.NDArray[np.float64],
    texts: Sequence[str],
    obstacles: npt.NDArray[np.float64],
    *,
    width: float,
    height: float,
    font_size: float = 11.0,
    gap: float = 8.0,
) -> list[Label]:
    """Place one label a point, greedily, where it overlaps least.

    Args:
        points: shape (n, 2), pixels from the plot's top left corner.
        texts: n strings.
        obstacles: shape (m, 2), pixels of marks that should stay visible (other points and lines).
        width: of the plot in pixels; labels stay inside.
        height: of the plot in pixels.
        font_size: in pixels.
        gap: pixels between a point and its label.
    """
    taken: list[npt.NDArray[np.float64]] = []
    marks = np.concatenate([points, obstacles]) if len(obstacles) else points
    # From the left, so that the result does not hang on the order in which the points are given.
    order = np.lexsort((points[:, 1], points[:, 0]))
    result: dict[int, Label] = {}
    for i in order:
        costs = []
        boxes = []
        for rank, (dx, dy, align) in enumerate(_PLACES):
            box = _box(points[i], texts[i], Label(dx * gap, dy * gap, align), font_size)
            boxes.append(box)
            covered = ((marks > box[:2] - 3) & (marks < box[2:] + 3)).all(axis=1).sum()
            overlap = sum(_overlap(box, other) for other in taken)
            outside = max(0.0, -box[0], -box[1], box[2] - width, box[3] - height)
            crossing = 12.0 * (overlap > 0.0) + 0.5 * overlap
            costs.append(rank * 0.6 + 4.0 * covered + crossing + 10.0 * outside)
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        dx, dy, align = _PLACES[best]
        result[int(i)] = Label(dx * gap, dy * gap, align)
    return [result[i] for i in range(len(points))]


def _box(
    point: npt.NDArray[np.float64], text: str, label: Label, font_size: float
) -> npt.NDArray[np.float64]:
    length = len(text) * CHARACTER_WIDTH * font_size
    left = point[0] + label.dx - {"left": 0.0, "center": 0.5, "right": 1.0}[label.align] * length
    top = point[1] + label.dy - font_size / 2.0
    return np.array([left, top, left + length, top + font_size])


def _overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(sides.prod()) if (sides > 0.0).all() else 0.0
