"""The prompts of the embedded example: a registry of task families and the draw from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from pipeline.example.families_code import CODE_FAMILIES
from pipeline.example.families_exact import EXACT_FAMILIES
from pipeline.example.families_language import LANGUAGE_FAMILIES
from pipeline.example.families_reasoning import REASONING_FAMILIES
from pipeline.example.vocabulary import Draft
from policies.errors import InputError

FAMILIES: Final[Mapping[str, Callable[[np.random.Generator], Draft]]] = {
    **EXACT_FAMILIES,
    **CODE_FAMILIES,
    **REASONING_FAMILIES,
    **LANGUAGE_FAMILIES,
}

HIDDEN_DIFFICULTY_STD: Final = 0.1
"""Spread of the part of a prompt's difficulty that its text does not tell (no router can learn it)."""

_PROMPT_STREAM: Final = 1
_DIFFICULTY_STREAM: Final = 2


@dataclass(frozen=True)
class ExamplePrompt:
    """A prompt with what the simulation knows of it.

    Attributes:
        prompt_id: `ex-00000`, `ex-00001`, ...
        prompt: the text.
        family: key of `FAMILIES`.
        difficulty: latent difficulty in [0, 1]; the structural part plus a hidden normal part, clipped.
        answer: the exact number asked for, None where it is not known.
    """

    prompt_id: str
    prompt: str
    family: str
    difficulty: float
    answer: Fraction | None = None


def write_prompts(n_prompts: int, seed: int) -> list[ExamplePrompt]:
    """Draw prompts, the families in equal shares.

    Fewer prompts under the same seed are the first of the more.

    Args:
        n_prompts: how many; at least 1.
        seed: non-negative; the same seed gives the same texts.

    Raises:
        InputError: on `n_prompts` < 1 or a negative seed.
    """
    if n_prompts < 1:
        raise InputError(f"n_prompts: {n_prompts} is not allowed, must be at least 1")
    if seed < 0:
        raise InputError(f"seed: {seed} is not allowed, must be 0 or more")
    rng = np.random.default_rng([seed, _PROMPT_STREAM])
    hidden = np.random.default_rng([seed, _DIFFICULTY_STREAM]).normal(0.0, HIDDEN_DIFFICULTY_STD, n_prompts)
    names = list(FAMILIES)
    prompts: list[ExamplePrompt] = []
    while len(prompts) < n_prompts:
        # Whole shuffled rounds keep the shares equal at any number of prompts.
        for index in rng.permutation(len(names))[: n_prompts - len(prompts)]:
            family = names[int(index)]
            draft = FAMILIES[family](rng)
            difficulty = float(np.clip(draft.difficulty + hidden[len(prompts)], 0.0, 1.0))
            prompt_id = f"ex-{len(prompts):05d}"
            prompts.append(ExamplePrompt(prompt_id, draft.prompt, family, difficulty, draft.answer))
    return prompts
