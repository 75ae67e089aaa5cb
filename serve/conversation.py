"""Which text of a conversation the router reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

SEPARATOR = "\n\n"
CHARS_PER_ENCODER_TOKEN = 4
"""English averages about four characters a token: how a budget of tokens becomes one of characters."""

_INSTRUCTIONS = ("system", "developer")


class Turn(Protocol):
    """One message of a conversation, however its request was read."""

    @property
    def role(self) -> str:
        """Who speaks."""
        ...

    def text(self) -> str:
        """Return the message's text, empty when it has none."""
        ...


def routing_text(messages: Sequence[Turn], max_tokens: int) -> str:
    """Return the text to embed: the latest user turn in full, then as much of what led to it as fits.

    The encoder reads the first ``max_tokens`` tokens only, so a plain concatenation of a long conversation would
    show it nothing but the opening. The budget is spent on the latest user turn, then on the turns before and
    after it from the newest back, then on instructions; turns that do not fit are left out whole and those kept
    stay in order. Roles are not marked: the policy is trained on bare prompts, and a conversation of one user
    turn must embed as that prompt does.
    """
    texts = [message.text().strip() for message in messages]
    with_text = [index for index, text in enumerate(texts) if text]
    latest = max((index for index in with_text if messages[index].role == "user"), default=with_text[-1])
    turns = [i for i in reversed(with_text) if messages[i].role not in _INSTRUCTIONS]
    instructions = [i for i in with_text if messages[i].role in _INSTRUCTIONS]
    left = max_tokens * CHARS_PER_ENCODER_TOKEN - len(texts[latest])
    kept = {latest}
    for index in [*turns, *instructions]:
        needed = len(texts[index]) + len(SEPARATOR)
        if index not in kept and needed <= left:
            kept.add(index)
            left -= needed
    return SEPARATOR.join(texts[index] for index in sorted(kept))


def whole_text(messages: Sequence[Turn]) -> str:
    """Return all text of a conversation: what a model would be sent, and charged for."""
    return SEPARATOR.join(text for message in messages if (text := message.text()))
