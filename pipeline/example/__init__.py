"""The embedded example: written prompts of known task families, and SIMULATED outcomes of invented models.

No language model was asked anything: scores, token counts and latencies below are drawn from distributions,
and the models do not exist. The example serves to try every stage without data; its figures say nothing of
any real model.

How it is simulated:

- Prompts: each of the families in `families` writes texts from templates with computed content (dates,
  tables, programs, puzzles that have a solution). What a text asks for (digits, steps, rows, rarity) sets its
  structural difficulty in [0, 1]; a hidden normal part is added, which no router can know.
- Score: each model has a skill per family, the difficulty that it masters half of the time. The chance of
  success is a four-parameter item response curve of skill minus difficulty. Checkable families draw right or
  wrong from it; translation and open writing draw a grade from a Beta distribution of that mean. About one
  score in a hundred is null.
- Tokens: prompt tokens are `ceil(characters / 4)`; completion tokens are log-normal around the family's usual
  length times the model's verbosity, longer for hard prompts, and several times longer where a model reasons
  aloud.
- Cost: `(prompt_tokens * input price + completion_tokens * output price) / 1e6` USD. Latency: wait for the
  first token plus completion tokens over speed, with log-normal noise.

Any arm with a price fits in: pass further `SimulatedModel`s and their prices to `generate_example`. Two arms are
not simulated: the calculator and the code runner (`tools`) are real programs, run on every prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pipeline.example.families import FAMILIES, ExamplePrompt, write_prompts
from pipeline.example.models import EXAMPLE_MODELS, SimulatedModel
from pipeline.example.outcomes import simulate_outcomes
from pipeline.example.tools import run_tools

__all__ = [
    "EXAMPLE_MODELS",
    "FAMILIES",
    "ExamplePrompt",
    "ExampleTables",
    "SimulatedModel",
    "generate_example",
    "write_prompts",
]


@dataclass(frozen=True)
class ExampleTables:
    """The two tables of the example.

    Attributes:
        prompts: `prompt_id`, `prompt`, `task` (the family); one row per prompt.
        outcomes: `prompt_id`, `model`, `score` in [0, 1] or null, `cost_usd`, `prompt_tokens`,
            `completion_tokens`, `latency_s`; one row per prompt and model.
    """

    prompts: pl.DataFrame
    outcomes: pl.DataFrame


def generate_example(
    n_prompts: int,
    seed: int,
    prices: Mapping[str, tuple[float, float]],
    models: Mapping[str, SimulatedModel] = EXAMPLE_MODELS,
    tools: Mapping[str, float] | None = None,
) -> ExampleTables:
    """Write the prompts, simulate the outcomes of every priced model, and run the tools on every prompt.

    Args:
        n_prompts: number of prompts; at least 1. Fewer under the same seed are the first of the more.
        seed: non-negative; the same arguments give the same tables.
        prices: per model name, (input, output) price in USD per million tokens; decides which models appear.
        models: simulated skills by model name; must hold every name in `prices`.
        tools: per tool, its price in USD per call; None runs none.

    Raises:
        InputError: naming the argument, the value and what is allowed.
    """
    written = write_prompts(n_prompts, seed)
    return ExampleTables(
        prompts=pl.DataFrame(
            {
                "prompt_id": [p.prompt_id for p in written],
                "prompt": [p.prompt for p in written],
                "task": [p.family for p in written],
            }
        ),
        outcomes=pl.concat(
            [simulate_outcomes(written, seed, prices, models), run_tools(written, tools or {})]
        ),
    )
