"""Prompt families about programs: reading what a snippet prints, and writing a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from pipeline.example.vocabulary import WORDS, Draft, between, level, pick, sample

_IDENTIFIERS: Final = (
    "total",
    "acc",
    "items",
    "buf",
    "data",
    "seq",
    "state",
    "pool",
    "rows",
    "keys",
    "grid",
    "queue",
)
_FUNCTIONS: Final = (
    "fold",
    "scan",
    "merge",
    "probe",
    "mix",
    "walk",
    "trim",
    "pack",
    "spin",
    "climb",
    "sift",
    "weave",
)


def _numbers(rng: np.random.Generator, count: int, high: int = 20) -> list[int]:
    return [between(rng, 1, high) for _ in range(count)]


def code_reading(rng: np.random.Generator) -> Draft:
    """A short Python or JavaScript program with drawn constants: what does it print?"""
    size, hard = level(rng, 3, 8)
    name, other = sample(rng, _IDENTIFIERS, 2)
    function = pick(rng, _FUNCTIONS)
    form = pick(
        rng, ("loop", "comprehension", "recursion", "dictionary", "slice", "nested", "bits", "closure", "js")
    )
    a, b, c = between(rng, 2, 5), between(rng, 1, 9), between(rng, 2, 7)
    if form == "loop":
        code = (
            f"{name} = {b}\nfor i in range({a}, {a + size}):\n    if i % {c} == 0:\n        {name} += i\n"
            f"    else:\n        {name} -= {b}\nprint({name})"
        )
        difficulty = 0.2 + 0.4 * hard
    elif form == "comprehension":
        code = f"{name} = {_numbers(rng, size)}\nprint([x * {a} for x in {name} if x % {c} != {b % c}][::-1])"
        difficulty = 0.1 + 0.35 * hard
    elif form == "recursion":
        code = (
            f"def {function}(n):\n    if n < {a}:\n        return {b}\n"
            f"    return {function}(n - 1) + {c} * {function}(n - {a})\n\nprint({function}({size}))"
        )
        difficulty = 0.45 + 0.45 * hard
    elif form == "dictionary":
        words = sample(rng, WORDS, size)
        code = (
            f"{name} = {{}}\nfor w in {words}:\n    {name}.setdefault(len(w) % {c}, []).append(w[{a % 3}])\n"
            f"print(sorted({name}.items()))"
        )
        difficulty = 0.35 + 0.4 * hard
    elif form == "slice":
        word = "".join(sample(rng, WORDS, 1 + size // 4))
        code = f"{name} = '{word}'\nprint({name}[{b % 4}::{a}] + {name}[::-{c}])"
        difficulty = 0.25 + 0.3 * hard
    elif form == "nested":
        code = (
            f"{name} = 0\nfor i in range({size}):\n    for j in range(i, {size + a}):\n        if (i * j) "
            f"% {c} == {b % c}:\n"
            f"            {name} += i ^ j\n            break\nprint({name})"
        )
        difficulty = 0.55 + 0.4 * hard
    elif form == "bits":
        code = (
            f"{name} = {between(rng, 10, 12 ** (size // 2))}\n{other} = 0\nwhile {name}:\n"
            f"    {other} = ({other} << 1 | {name} & 1) ^ {b}\n    {name} >>= {1 + a % 2}\nprint({other}, "
            f"{name})"
        )
        difficulty = 0.5 + 0.45 * hard
    elif form == "closure":
        code = (
            f"def {function}({name}=[]):\n    def step(x):\n        {name}.append(x * {a})\n        "
            f"return sum({name}) - {b}\n"
            f"    return step\n\nf, g = {function}(), {function}()\nprint("
            + ", ".join(f"{pick(rng, 'fg')}({n})" for n in _numbers(rng, size // 2 + 1, 9))
            + ")"
        )
        difficulty = 0.5 + 0.4 * hard
    else:
        code = (
            f"const {name} = {_numbers(rng, size)};\nconst {other} = {name}.filter(x => x > {b}).map((x, "
            f"i) => x * i + {c});\n"
            f"console.log({other}.reduce((p, q) => p {pick(rng, ('+', '-'))} q, {a}), {name}.length);"
        )
        difficulty = 0.2 + 0.4 * hard
    question = pick(
        rng,
        (
            "What does this program print?",
            "Read the code and give its exact output.",
            "Without running it, say what is printed.",
            "Trace the following snippet and state its output.",
        ),
    )
    language = "javascript" if form == "js" else "python"
    return Draft(f"{question}\n```{language}\n{code}\n```", difficulty)


_LANGUAGES: Final = (
    ("Python", 0.0),
    ("JavaScript", 0.02),
    ("TypeScript", 0.05),
    ("Java", 0.05),
    ("Go", 0.08),
    ("SQL", 0.1),
    ("Rust", 0.2),
    ("C++", 0.15),
    ("Haskell", 0.3),
    ("Bash", 0.15),
    ("R", 0.12),
    ("COBOL", 0.4),
)
_TASKS: Final = (
    ("returns the {k} largest values of a list", 0.08),
    ("counts the words of a text that have more than {k} letters", 0.05),
    ("checks whether a bracket sequence with {k} kinds of brackets is balanced", 0.2),
    ("merges overlapping intervals that lie within {k} of each other", 0.3),
    ("finds the shortest path between two cells of a grid, allowing {k} walls to be removed", 0.6),
    ("rotates a matrix by 90 degrees {k} times", 0.2),
    ("parses a CSV line with quoted fields into {k} columns", 0.35),
    ("implements an LRU cache of capacity {k}", 0.4),
    ("groups records by month and sums their amounts, skipping groups smaller than {k}", 0.15),
    ("computes the edit distance of two strings, where a swap costs {k}", 0.5),
    ("validates an IPv6 address with a prefix of at least {k} bits", 0.45),
    ("solves an {k} by {k} queens puzzle", 0.5),
    ("schedules jobs with dependencies on {k} workers", 0.7),
    ("evaluates an arithmetic expression given as text with precision {k}", 0.6),
    ("removes duplicates from a sorted array, keeping at most {k} copies", 0.15),
    ("retries a request up to {k} times with exponential backoff", 0.2),
    ("finds strongly connected components with more than {k} nodes", 0.6),
    ("formats a number of seconds as a readable duration with {k} parts", 0.12),
    ("matches a pattern with wildcards and at most {k} errors", 0.75),
    ("prints the first {k} rows of Pascal's triangle", 0.05),
)
_CONSTRAINTS: Final = (
    ("", 0.0),
    (" Do not use any library.", 0.05),
    (" It must run in linear time.", 0.15),
    (" Use constant extra memory.", 0.2),
    (" Add type annotations and three unit tests.", 0.05),
    (" It has to be safe to call from several threads.", 0.25),
    (" Handle empty input and raise a clear error on bad input.", 0.03),
    (" Avoid loops; use recursion.", 0.12),
    (" Inputs may have ten million elements.", 0.15),
)


def code_writing(rng: np.random.Generator) -> Draft:
    """A function to write, in a language and under a constraint; checked by tests."""
    language, rare = pick(rng, _LANGUAGES)
    task, base = pick(rng, _TASKS)
    constraint, extra = pick(rng, _CONSTRAINTS)
    name = f"{pick(rng, _FUNCTIONS)}_{pick(rng, _IDENTIFIERS)}"
    opening = pick(
        rng,
        (
            "Write a {} function `{}` that {}.",
            "In {}, implement `{}`, which {}.",
            "I need a {} routine called `{}` that {}.",
            "Please code a {} function named `{}`; it {}.",
        ),
    ).format(language, name, task.format(k=between(rng, 2, 12)))
    return Draft(opening + constraint, min(1.0, 0.05 + base + rare + extra))


CODE_FAMILIES: Final[dict[str, Callable[[np.random.Generator], Draft]]] = {
    "code_reading": code_reading,
    "code_writing": code_writing,
}
