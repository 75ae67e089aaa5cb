"""Fair turns: what is compared is measured once a round, so that a noisy machine weighs on all alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def rotation(names: Iterable[str], rounds: int) -> Iterator[tuple[str, int]]:
    """Yield every name once a round, in rotating order, with the round: a tenth as many, below 0, warm up."""
    order = list(names)
    for turn in range(-max(rounds // 10, 5), rounds):
        for offset in range(len(order)):
            yield order[(turn + offset) % len(order)], turn
