"""Arms that are no models: what a calculator and a code runner really make of the example's prompts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import polars as pl

from pipeline.example.calculator import NotArithmeticError, calculate
from pipeline.example.code_runner import NotRunnableError, run_program
from pipeline.example.families import ExamplePrompt
from pipeline.example.outcomes import OUTCOME_SCHEMA
from policies.costs import estimate_tokens
from policies.errors import InputError

_READS_CODE: Final = "code_reading"


def calculator_score(prompt: ExamplePrompt) -> float:
    """Return 1 where the calculator's result is the number asked for, computed apart from it; else 0.

    A prompt that asks for something else, or that the calculator does not understand, was asked in vain.
    """
    try:
        value = calculate(prompt.prompt)
    except NotArithmeticError:
        return 0.0
    return float(prompt.answer is not None and value == prompt.answer)


def code_runner_score(prompt: ExamplePrompt) -> float:
    """Return 1 where the prompt asks what its program prints and running it tells; else 0.

    What a program prints is what running it prints: there is nothing else to compare with.
    """
    try:
        printed = run_program(prompt.prompt)
    except NotRunnableError:
        return 0.0
    return float(prompt.family == _READS_CODE and printed != "")


TOOLS: Final[Mapping[str, Callable[[ExamplePrompt], float]]] = {
    "calculator": calculator_score,
    "code_runner": code_runner_score,
}
"""By name in the pool file: the score of one call."""


def run_tools(prompts: Sequence[ExamplePrompt], prices: Mapping[str, float]) -> pl.DataFrame:
    """Run each tool on each prompt; every call costs its price, whatever came of it.

    Latencies are left null: measured ones would make no two runs of the example equal.

    Args:
        prompts: as `write_prompts` gives them.
        prices: per tool, USD per call.

    Returns:
        Frame of `OUTCOME_SCHEMA`, tool by tool.

    Raises:
        InputError: on a tool that the example does not have, or a price that is negative or not finite.
    """
    for name, price in prices.items():
        if name not in TOOLS:
            raise InputError(f"tools: '{name}' is not in the example; known tools: {', '.join(TOOLS)}")
        if not (math.isfinite(price) and price >= 0.0):
            raise InputError(f"tools['{name}']: {price} is not allowed, prices must be finite and 0 or more")
    ids = [prompt.prompt_id for prompt in prompts]
    tokens = [estimate_tokens(len(prompt.prompt)) for prompt in prompts]
    frames = [pl.DataFrame(schema=dict(OUTCOME_SCHEMA))]
    # A program runs in a process of its own: threads only wait for them.
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        for name, price in prices.items():
            columns = {
                "prompt_id": ids,
                "model": [name] * len(prompts),
                "score": list(workers.map(TOOLS[name], prompts)),
                "cost_usd": [price] * len(prompts),
                "prompt_tokens": tokens,
                "completion_tokens": [0] * len(prompts),
                "latency_s": [None] * len(prompts),
            }
            frames.append(pl.DataFrame(columns, schema=dict(OUTCOME_SCHEMA)))
    return pl.concat(frames)
