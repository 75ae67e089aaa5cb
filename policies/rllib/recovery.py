"""Noticing that a remote learner died: RLlib 2.60 replaces none, and goes on with fewer or fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.rllib.core.learner.learner_group import LearnerGroup

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_LOSSES = 3
"""Times that the same piece of training is begun again; learners that keep dying (of memory, say) are an error."""
ANSWER_S = 10.0
"""A dead learner is known to be dead at once; one that is only busy may take longer and counts as alive."""


class LearnerLostError(RuntimeError):
    """A remote learner's process or node died."""


def lost(group: LearnerGroup) -> bool:
    """Return whether a remote learner of the group is dead."""
    for worker in group._workers or []:
        try:
            ray.get(worker.__ray_ready__.remote(), timeout=ANSWER_S)
        except RayActorError:
            return True
        except GetTimeoutError:
            continue
    return False


@contextmanager
def naming_lost_learners(group: LearnerGroup) -> Iterator[None]:
    """Raise LearnerLostError in place of whatever the death of a learner made fail inside the block.

    What that is depends on what was going on: an actor error, the assertion that all learners are healthy, or, in a
    learner that outlived the other, a broken connection.

    Raises:
        LearnerLostError: a learner of the group is dead.
    """
    try:
        yield
    except Exception as error:
        if not lost(group):
            raise
        raise LearnerLostError(str(error).strip().splitlines()[0] if str(error) else repr(error)) from error


def begun_again(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, begun again from its start where a learner died.

    Raises:
        LearnerLostError: that happened more than :data:`MAX_LOSSES` times.
    """
    for _ in range(MAX_LOSSES):
        try:
            return work()
        except LearnerLostError as error:
            log.warning("a learner died (%s); beginning again", error)
    return work()
