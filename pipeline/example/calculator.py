"""A real tool: a calculator that finds the arithmetic in a prompt and evaluates it exactly.

Nothing of the prompt is ever executed: an expression is parsed to a syntax tree, of which only numbers, the four
operations, remainders, powers and brackets are evaluated, in fractions, with a bound on how large they may grow.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Final

MAX_BITS: Final = 8192
"""Results longer than that are refused: a short prompt can ask for a number that fills the memory."""

MAX_CHARACTERS: Final = 400
"""Longer expressions are refused: a parser's recursion has its limits."""

_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_DIGITS = re.compile(r"\d+\.?\d*|\.\d+")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_EXPRESSION = re.compile(r"[(\d][\d\s,.()+*/^%−×÷-]*[)\d]")
_PERCENTAGE = re.compile(rf"({_NUMBER})\s*(?:%|percent)\s+of\s+({_NUMBER})")
_DIVISION = re.compile(rf"[Dd]ivide\s+({_NUMBER})\s+by\s+({_NUMBER})")
_REMAINDER = re.compile(r"remainder when (.+?) is divided by (\d[\d,]*)")
_LISTED = r"((?:[\d,]+(?:/\d+)?(?:,? and |, ))+[\d,]+(?:/\d+)?)"
_SUM = re.compile(rf"[Aa]dd (?:the )?(?:fractions|numbers) {_LISTED}")
_DIVISOR = re.compile(rf"(greatest common divisor|least common multiple) of {_LISTED}")


class NotArithmeticError(ValueError):
    """There is nothing to calculate, or nothing that this calculator can."""


def calculate(prompt: str) -> Fraction:
    """Return the exact value of the arithmetic that a prompt asks for.

    Understood are written expressions (``(12 + 3) * 4^2``), percentages of a number, "divide a by b", remainders,
    sums of listed fractions, greatest common divisors and least common multiples. Of several expressions the
    longest counts.

    Raises:
        NotArithmeticError: nothing of the kind is there, or its value is undefined or too large.
    """
    for pattern, value in _PHRASES:
        found = pattern.search(prompt)
        if found is not None:
            return _bounded(value(found))
    written = [text for text in (m.group().strip() for m in _EXPRESSION.finditer(prompt)) if _operates(text)]
    if not written:
        raise NotArithmeticError("no arithmetic in the prompt")
    return evaluate(max(written, key=len))


def evaluate(expression: str) -> Fraction:
    """Return the exact value of an expression of numbers, ``+ - * / % ^`` and brackets.

    Raises:
        NotArithmeticError: it is no such expression, or its value is undefined or too large.
    """
    if len(expression) > MAX_CHARACTERS:
        raise NotArithmeticError(f"an expression of {len(expression)} characters; allowed: {MAX_CHARACTERS}")
    text = _GROUPED.sub("", expression).translate(_SIGNS).replace("^", "**")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotArithmeticError(f"'{expression}' is no expression") from None
    return _value(tree, text.strip())


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            # The digits as written: 0.1 is one tenth here, which the float is not.
            written = str(ast.get_source_segment(text, node))
            if not _DIGITS.fullmatch(written):
                raise NotArithmeticError(f"'{written}' is not written in digits")
            return _bounded(Fraction(written))
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, text)
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(node.op)](_value(node.left, text), _value(node.right, text)))
    raise NotArithmeticError(f"'{text}': {type(node).__name__} is not arithmetic")


def _divided(a: Fraction, b: Fraction) -> Fraction:
    if b == 0:
        raise NotArithmeticError("division by zero")
    return a / b


def _modulo(a: Fraction, b: Fraction) -> Fraction:
    if b == 0:
        raise NotArithmeticError("remainder of a division by zero")
    return a % b


def _power(a: Fraction, b: Fraction) -> Fraction:
    if b.denominator != 1 or (a == 0 and b < 0):
        raise NotArithmeticError("a power that is no exact number")
    if abs(b) * max(abs(a.numerator).bit_length(), a.denominator.bit_length()) > MAX_BITS:
        raise NotArithmeticError("a power that is too large")
    return a ** int(b)


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NotArithmeticError("a number that is too large")
    return value


def _operates(text: str) -> bool:
    return any(sign in text for sign in "+-*/%^−×÷") and any(c.isdigit() for c in text)


def _numbers(listed: str) -> list[Fraction]:
    return [evaluate(part) for part in re.split(r",? and |, ", listed)]


def _divisor_or_multiple(found: re.Match[str]) -> Fraction:
    listed = _numbers(found.group(2))
    if any(number.denominator != 1 for number in listed):
        raise NotArithmeticError(f"a {found.group(1)} of fractions")
    numbers = [int(number) for number in listed]
    return Fraction(reduce(math.gcd if found.group(1).startswith("greatest") else math.lcm, numbers))


_SIGNS: Final = str.maketrans({"−": "-", "×": "*", "÷": "/"})
_OPERATIONS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: _divided,
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_PHRASES: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Fraction]], ...]] = (
    (_PERCENTAGE, lambda m: evaluate(m.group(1)) / 100 * evaluate(m.group(2))),
    (_REMAINDER, lambda m: _modulo(evaluate(m.group(1)), evaluate(m.group(2)))),
    (_DIVISION, lambda m: _divided(evaluate(m.group(1)), evaluate(m.group(2)))),
    (_SUM, lambda m: sum(_numbers(m.group(1)), Fraction(0))),
    (_DIVISOR, _divisor_or_multiple),
)
