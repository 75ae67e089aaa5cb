"""Simulated outcomes: what each model of the example would have scored, cost and taken on each prompt."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.example.families import ExamplePrompt
from pipeline.example.models import ANSWER_STYLES, SimulatedModel
from policies.costs import estimate_tokens
from policies.errors import InputError

DISCRIMINATION: Final = 9.0
"""Slope of the chance of success over (skill - difficulty); at 0.25 above or below, 90 % or 10 %."""

SLIP: Final = 0.03
"""Chance that a skilled model fails all the same (for graded families: distance of the best grade from 1)."""

GRADE_CONCENTRATION: Final = 14.0
"""a + b of the Beta distribution of a grade: a standard deviation of about 0.13 at a mean of one half."""

MISSING_SHARE: Final = 0.01
"""Share of the answers that never got a score (null), as graders fail in life; cost is known all the same."""

_ANSWER_LENGTH_SPREAD: Final = 0.35
_LATENCY_SPREAD: Final = 0.2
_TOKENS_PER_MTOK: Final = 1_000_000

OUTCOME_SCHEMA: Final[Mapping[str, type[pl.DataType]]] = {
    "prompt_id": pl.String,
    "model": pl.String,
    "score": pl.Float64,
    "cost_usd": pl.Float64,
    "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "latency_s": pl.Float64,
}


def success_probability(
    skill: npt.NDArray[np.float64], difficulty: npt.NDArray[np.float64], guess: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Four-parameter item response curve.

    `guess + (1 - SLIP - guess) / (1 + exp(-DISCRIMINATION (skill - difficulty)))`
    (Barton and Lord, 1981), which is also the mean grade in graded families.

    Args:
        skill: shape (n,), in units of difficulty.
        difficulty: shape (n,), in [0, 1].
        guess: shape (n,), lower asymptote.

    Returns:
        Probabilities, shape (n,).
    """
    return guess + (1.0 - SLIP - guess) / (1.0 + np.exp(-DISCRIMINATION * (skill - difficulty)))


def simulate_outcomes(
    prompts: Sequence[ExamplePrompt],
    seed: int,
    prices: Mapping[str, tuple[float, float]],
    models: Mapping[str, SimulatedModel],
) -> pl.DataFrame:
    """One row per prompt and priced model, prompt by prompt in the order of `prices`.

    Each model draws from its own streams: one more or less leaves the outcomes of the others as they are.

    Args:
        prompts: as `write_prompts` gives them.
        seed: non-negative.
        prices: per model name, input and output price in USD per million tokens.
        models: simulated skills by model name; must hold every name in `prices`.

    Returns:
        Frame of `OUTCOME_SCHEMA`.

    Raises:
        InputError: on no prices, a model without skills, or a price that is negative or not finite.
    """
    _check_prices(prices, models)
    styles = [ANSWER_STYLES[p.family] for p in prompts]
    difficulty = np.array([p.difficulty for p in prompts])
    guess = np.array([s.guess for s in styles])
    graded = np.array([s.graded for s in styles])
    base_tokens = np.array([s.length_tokens for s in styles])
    prompt_tokens = np.array([estimate_tokens(len(p.prompt)) for p in prompts], dtype=np.int64)
    ids = [p.prompt_id for p in prompts]
    n = len(prompts)

    frames = []
    for rank, (name, (input_price, output_price)) in enumerate(prices.items()):
        model = models[name]
        # crc32 and not hash(), which differs from process to process.
        streams = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).spawn(5)
        score_rng, grade_rng, missing_rng, length_rng, latency_rng = (
            np.random.default_rng(s) for s in streams
        )

        skill = np.array([model.skills.get(p.family, model.skill) for p in prompts])
        chance = success_probability(skill, difficulty, guess)
        right = (score_rng.random(n) < chance).astype(np.float64)
        grade = grade_rng.beta(GRADE_CONCENTRATION * chance, GRADE_CONCENTRATION * (1.0 - chance))
        score = np.where(graded, np.round(grade, 3), right)
        missing = missing_rng.random(n) < MISSING_SHARE

        aloud = np.array([model.long_factor if p.family in model.long_families else 1.0 for p in prompts])
        # Hard prompts get longer answers: half as long again at difficulty 1.
        median = base_tokens * model.verbosity * aloud * (1.0 + 0.5 * difficulty)
        drawn = median * np.exp(length_rng.normal(0.0, _ANSWER_LENGTH_SPREAD, n))
        completion_tokens = np.maximum(1, np.rint(drawn)).astype(np.int64)

        cost_usd = (prompt_tokens * input_price + completion_tokens * output_price) / _TOKENS_PER_MTOK
        wait = model.first_token_s + completion_tokens / model.tokens_per_s
        latency_s = np.round(wait * np.exp(latency_rng.normal(0.0, _LATENCY_SPREAD, n)), 4)
        frames.append(
            pl.DataFrame(
                {
                    "prompt_id": ids,
                    "model": [name] * n,
                    "score": pl.Series(score).set(pl.Series(missing), None),
                    "cost_usd": cost_usd,
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": completion_tokens,
                    "latency_s": latency_s,
                },
                schema=dict(OUTCOME_SCHEMA),
            ).with_columns(_row=pl.int_range(n) * len(prices) + rank)
        )
    return pl.concat(frames).sort("_row").drop("_row")


def _check_prices(prices: Mapping[str, tuple[float, float]], models: Mapping[str, SimulatedModel]) -> None:
    if not prices:
        raise InputError("prices: no models given, at least one is needed")
    for name, pair in prices.items():
        if name not in models:
            raise InputError(f"prices: model {name!r} is not simulated; known models: {', '.join(models)}")
        if not all(math.isfinite(price) and price >= 0 for price in pair):
            raise InputError(f"prices[{name!r}]: {pair} is not allowed, prices must be finite and 0 or more")
