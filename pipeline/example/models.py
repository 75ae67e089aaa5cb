"""The invented models of the embedded example: how skilled, how verbose and how fast each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class AnswerStyle:
    """What answers to a family look like.

    Attributes:
        length_tokens: median length of an answer of a model of verbosity 1, at difficulty 0.
        graded: True where a judge gives a grade in [0, 1], False where an answer is right or wrong.
        guess: chance that a model without the skill is right all the same (for graded families: floor
            of the grade).
    """

    length_tokens: float
    graded: bool = False
    guess: float = 0.02


@dataclass(frozen=True)
class SimulatedModel:
    """A model (or any other arm with a price, such as a tool) as the simulation sees it.

    Attributes:
        skill: difficulty that it masters half of the time, for families not in `skills`; about -0.5 for
            "never".
        skills: the same per family.
        verbosity: factor on the length of its answers.
        first_token_s: median wait for the first token.
        tokens_per_s: speed of writing.
        long_families: families in which it writes `long_factor` times as much (models that reason aloud).
        long_factor: see `long_families`.
    """

    skill: float
    skills: Mapping[str, float] = field(default_factory=dict)
    verbosity: float = 1.0
    first_token_s: float = 0.3
    tokens_per_s: float = 80.0
    long_families: frozenset[str] = frozenset()
    long_factor: float = 1.0


ANSWER_STYLES: Final[Mapping[str, AnswerStyle]] = {
    "arithmetic": AnswerStyle(60),
    "word_problem": AnswerStyle(140),
    "unit_conversion": AnswerStyle(70),
    "date_arithmetic": AnswerStyle(80),
    "string_manipulation": AnswerStyle(70),
    "code_reading": AnswerStyle(110, guess=0.04),
    "code_writing": AnswerStyle(320),
    "logic": AnswerStyle(160, guess=0.15),
    "table_query": AnswerStyle(90, guess=0.05),
    "ordering": AnswerStyle(70, guess=0.03),
    "planning": AnswerStyle(240, guess=0.05),
    "extraction": AnswerStyle(80),
    "translation": AnswerStyle(50, graded=True, guess=0.15),
    "open_writing": AnswerStyle(350, graded=True, guess=0.25),
}

_REASONED: Final = frozenset(
    {"arithmetic", "word_problem", "unit_conversion", "date_arithmetic", "code_reading", "logic", "planning"}
)

EXAMPLE_MODELS: Final[Mapping[str, SimulatedModel]] = {
    # Two large generalists; each has weak spots, so that neither is best everywhere.
    "atlas-large": SimulatedModel(
        skill=0.74,
        skills={"arithmetic": 0.62, "string_manipulation": 0.56, "translation": 0.68, "table_query": 0.64},
        verbosity=1.25,
        first_token_s=0.9,
        tokens_per_s=55,
    ),
    "summit-pro": SimulatedModel(
        skill=0.64,
        skills={"ordering": 0.84, "planning": 0.76, "logic": 0.7, "open_writing": 0.48, "translation": 0.55},
        verbosity=1.1,
        first_token_s=0.7,
        tokens_per_s=65,
    ),
    # Reasons aloud: strong on numbers and logic, paid for in tokens and time.
    "reason-24b": SimulatedModel(
        skill=0.36,
        skills={
            "arithmetic": 0.88,
            "word_problem": 0.82,
            "logic": 0.8,
            "unit_conversion": 0.72,
            "date_arithmetic": 0.7,
            "planning": 0.7,
            "code_reading": 0.58,
            "open_writing": 0.15,
        },
        verbosity=1.1,
        first_token_s=0.5,
        tokens_per_s=90,
        long_families=_REASONED,
        long_factor=5.0,
    ),
    "coder-32b": SimulatedModel(
        skill=0.36,
        skills={
            "code_reading": 0.82,
            "code_writing": 0.78,
            "string_manipulation": 0.66,
            "table_query": 0.55,
            "open_writing": 0.1,
            "translation": 0.15,
        },
        verbosity=0.9,
        first_token_s=0.4,
        tokens_per_s=85,
    ),
    "scribe-70b": SimulatedModel(
        skill=0.38,
        skills={
            "open_writing": 0.88,
            "translation": 0.55,
            "extraction": 0.55,
            "ordering": 0.6,
            "arithmetic": 0.15,
        },
        verbosity=1.3,
        first_token_s=0.5,
        tokens_per_s=60,
    ),
    "atlas-mini": SimulatedModel(
        skill=0.48, skills={"extraction": 0.55, "code_writing": 0.42}, verbosity=1.0, tokens_per_s=120
    ),
    "ledger-14b": SimulatedModel(
        skill=0.26,
        skills={"table_query": 0.72, "extraction": 0.76, "date_arithmetic": 0.58, "unit_conversion": 0.45},
        verbosity=0.7,
        tokens_per_s=110,
    ),
    "polyglot-12b": SimulatedModel(
        skill=0.22,
        skills={"translation": 0.84, "open_writing": 0.42, "ordering": 0.4},
        verbosity=0.9,
        tokens_per_s=120,
    ),
    "swift-8b": SimulatedModel(
        skill=0.32,
        skills={"code_writing": 0.3, "extraction": 0.38, "ordering": 0.35},
        verbosity=0.8,
        first_token_s=0.2,
        tokens_per_s=170,
    ),
    "pebble-3b": SimulatedModel(
        skill=0.14,
        skills={"extraction": 0.27, "translation": 0.2, "arithmetic": 0.08},
        verbosity=0.7,
        first_token_s=0.12,
        tokens_per_s=260,
    ),
}
