"""Prompt families with one exact answer reached by computing: numbers, units, dates, strings."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np

from pipeline.example.vocabulary import (
    CITIES,
    GOODS,
    MONTHS,
    NAMES,
    WEEKDAYS,
    WORDS,
    Draft,
    between,
    level,
    listed,
    pick,
    sample,
)

_NUMBER_ONLY: Final = (
    "",
    "",
    " Answer with the number only.",
    " Show your working.",
    " Be exact, do not round.",
)


def arithmetic(rng: np.random.Generator) -> Draft:
    """Expressions, percentages, remainders, fractions, series, common divisors."""
    form = pick(rng, ("chain", "percentage", "remainder", "fractions", "series", "divisor", "division"))
    size, hard = level(rng, 1, 5)
    if form == "chain":
        digits, hard_digits = level(rng, 1, 4)
        value = between(rng, 2, 10**digits)
        expression = str(value)
        for _ in range(size):
            operator, number = pick(rng, "+-*"), between(rng, 2, 10**digits)
            value = {"+": value + number, "-": value - number, "*": value * number}[operator]
            bracketed = operator == "*" and any(c in expression for c in "+-")
            expression = (
                f"({expression}) {operator} {number}" if bracketed else f"{expression} {operator} {number}"
            )
        text = pick(rng, ("Compute {}.", "What is {}?", "Evaluate the expression {}.", "{} = ?")).format(
            expression
        )
        answer = Fraction(value)
        difficulty = 0.02 + 0.48 * hard + 0.4 * hard_digits
    elif form == "percentage":
        rate = between(rng, 1, 19) * 5 if size < 3 else between(rng, 11, 1999) / 10
        amount = between(rng, 10, 10 ** (1 + size))
        text = pick(rng, ("What is {}% of {:,}?", "Work out {} percent of {:,}.")).format(rate, amount)
        answer = Fraction(str(rate)) * amount / 100
        difficulty = 0.05 + 0.6 * hard
    elif form == "remainder":
        base, power, modulus = between(rng, 2, 99), between(rng, 2, 4 * size), between(rng, 5, 97)
        text = f"Find the remainder when {base}^{power} is divided by {modulus}."
        answer = Fraction(pow(base, power, modulus))
        difficulty = 0.4 + 0.55 * hard
    elif form == "fractions":
        parts = [f"{between(rng, 1, 4 * size)}/{between(rng, 2, 5 * size + 3)}" for _ in range(2 + size // 3)]
        text = f"Add the fractions {listed(parts)} and give the result in lowest terms."
        answer = sum((Fraction(part) for part in parts), Fraction(0))
        difficulty = 0.2 + 0.6 * hard
    elif form == "series":
        first, step, terms = between(rng, 1, 60), between(rng, 2, 5 * size + 2), between(rng, 5, 12 * size)
        start = ", ".join(str(first + step * i) for i in range(4))
        text = f"An arithmetic sequence begins {start}, ... What is the sum of its first {terms} terms?"
        answer = Fraction(terms * (2 * first + (terms - 1) * step), 2)
        difficulty = 0.2 + 0.4 * hard
    elif form == "divisor":
        common = between(rng, 2, 30 * size)
        numbers = [common * between(rng, 2, 12 * size) for _ in range(2 + size // 4)]
        word = pick(rng, ("greatest common divisor", "least common multiple"))
        text = f"What is the {word} of {listed([str(n) for n in numbers])}?"
        answer = Fraction((math.gcd if word.startswith("greatest") else math.lcm)(*numbers))
        difficulty = 0.15 + 0.65 * hard
    else:
        divisor, quotient = between(rng, 3, 10 ** (1 + size // 2)), between(rng, 7, 10 ** (1 + size // 2) * 9)
        text = f"Divide {divisor * quotient:,} by {divisor}."
        answer = Fraction(quotient)
        difficulty = 0.05 + 0.6 * hard
    return Draft(text + pick(rng, _NUMBER_ONLY), difficulty, answer)


def word_problem(rng: np.random.Generator) -> Draft:
    """Short stories with a number to find."""
    form = pick(rng, ("shopping", "journey", "work", "interest", "mixture", "ages", "sharing"))
    who, other = sample(rng, NAMES, 2)
    size, hard = level(rng, 2, 5)
    if form == "shopping":
        goods = sample(rng, GOODS, size)
        bought = listed(
            [f"{between(rng, 2, 14)} {g} at ${between(rng, 150, 4999) / 100:.2f} each" for g in goods]
        )
        text = f"{who} buys {bought}. "
        if size > 3:
            text += f"A voucher takes {between(rng, 5, 30)}% off the dearest line. "
        text += pick(
            rng, ("How much is the bill?", f"How much change is left from ${between(rng, 4, 12) * 250}?")
        )
        difficulty = 0.1 + 0.6 * hard
    elif form == "journey":
        start, end = sample(rng, CITIES, 2)
        text = (
            f"A train leaves {start} at {between(rng, 5, 11)}:{between(rng, 0, 11) * 5:02d} at "
            f"{between(rng, 60, 140)} km/h towards {end}, {between(rng, 180, 900)} km away. "
        )
        if size > 2:
            text += (
                f"{between(rng, 10, 75)} minutes later another leaves {end} at {between(rng, 55, 150)} km/h. "
            )
        if size > 4:
            text += f"The first stops for {between(rng, 4, 25)} minutes halfway. "
        text += "When do they meet?" if size > 2 else "When does it arrive?"
        difficulty = 0.2 + 0.65 * hard
    elif form == "work":
        hours = [between(rng, 3, 20) for _ in range(size)]
        people = sample(rng, NAMES, size)
        text = "; ".join(f"{p} alone paints a hall in {h} hours" for p, h in zip(people, hours, strict=True))
        text = f"{text}. How long do they need together, to the nearest minute?"
        difficulty = 0.3 + 0.5 * hard
    elif form == "interest":
        text = (
            f"{who} puts ${between(rng, 4, 400) * 50:,} in an account paying {between(rng, 5, 90) / 10}% "
            f"a year, "
            f"compounded {pick(rng, ('yearly', 'quarterly', 'monthly'))}. What is the balance after "
            f"{size + 1} years?"
        )
        difficulty = 0.35 + 0.35 * hard
    elif form == "mixture":
        text = (
            f"A chemist mixes {between(rng, 1, 40) * 5} ml of a {between(rng, 2, 30)}% salt solution with a "
            f"{between(rng, 35, 90)}% one. How much of the stronger does {who} need for a "
            f"{between(rng, 31, 34)}% mix?"
        )
        difficulty = 0.55 + 0.2 * hard
    elif form == "ages":
        gap = between(rng, 2, 29)
        ratio = pick(rng, ("twice", "three times", "four times", "half as much again as"))
        text = (
            f"{who} is {gap} years older than {other}. In {between(rng, 2, 15)} years {who} will be {ratio} "
            f"the age {other} was {between(rng, 1, 9)} years ago. How old are they now?"
        )
        difficulty = 0.5 + 0.25 * hard
    else:
        text = (
            f"{who} shares {between(rng, 30, 900)} {pick(rng, GOODS)} equally among {between(rng, 4, 23)} "
            f"classes and "
            f"gives what is left over to {other}. How many does {other} get?"
        )
        difficulty = 0.1 + 0.2 * hard
    return Draft(text, difficulty)


# (from, to, difficulty): everyday pairs first, compound and rare units last.
_UNITS: Final = (
    ("kilometres", "miles", 0.1),
    ("kilograms", "pounds", 0.1),
    ("feet", "centimetres", 0.15),
    ("degrees Celsius", "degrees Fahrenheit", 0.15),
    ("litres", "US gallons", 0.25),
    ("ounces", "grams", 0.2),
    ("nautical miles", "kilometres", 0.35),
    ("acres", "hectares", 0.4),
    ("kilowatt-hours", "megajoules", 0.45),
    ("pounds per square inch", "kilopascals", 0.55),
    ("miles per gallon (US)", "litres per 100 km", 0.75),
    ("furlongs per fortnight", "millimetres per second", 0.95),
    ("cubic feet per minute", "litres per second", 0.7),
    ("troy ounces", "grains", 0.8),
    ("electronvolts", "joules", 0.7),
    ("kilometres per hour", "metres per second", 0.3),
    ("square metres", "square yards", 0.5),
)


def unit_conversion(rng: np.random.Generator) -> Draft:
    """Single conversions, sums of mixed units, scaled recipes."""
    form = pick(rng, ("single", "single", "mixed", "recipe", "compare"))
    source, target, rarity = pick(rng, _UNITS)
    value = between(rng, 11, 99999) / pick(rng, (1, 10, 100))
    if form == "single":
        text = pick(rng, ("Convert {} {} to {}.", "How much is {} {} in {}?", "Express {} {} in {}.")).format(
            value, source, target
        )
        text += pick(
            rng, ("", " Give two decimals.", " Give four significant figures.", " Round to a whole number.")
        )
        difficulty = rarity
    elif form == "mixed":
        size, hard = level(rng, 2, 4)
        unit_set = pick(rng, (("kg", "g", "lb", "oz"), ("km", "m", "ft", "yd"), ("h", "min", "s", "days")))
        parts = [f"{between(rng, 3, 480)} {unit}" for unit in sample(rng, unit_set, size)]
        text = f"Add {listed(parts)} and state the total in {unit_set[0]}."
        difficulty = 0.2 + 0.5 * hard
    elif form == "recipe":
        dish = pick(
            rng, ("lentil soup", "banana bread", "paella", "dumplings", "ginger cake", "pad thai", "flan")
        )
        text = (
            f"A recipe for {dish} serving {between(rng, 2, 6)} needs {between(rng, 1, 5)} cups of stock, "
            f"{between(rng, 2, 16)} oz of butter and {between(rng, 1, 8)} tablespoons of oil at "
            f"{between(rng, 30, 45) * 10} °F. Rewrite it for {between(rng, 7, 30)} people in metric units."
        )
        difficulty = 0.55
    else:
        factor = between(rng, 2, 900) / 10
        text = f"Which is more: {value} {source}, or {round(value * factor, 1)} {target}? Say by how much."
        difficulty = min(1.0, 0.15 + rarity)
    return Draft(text, difficulty)


def date_arithmetic(rng: np.random.Generator) -> Draft:
    """Offsets, spans, weekdays, working days, time zones, repeating events."""
    form = pick(rng, ("offset", "span", "weekday", "working", "zone", "repeat"))
    day = dt.date(1900, 1, 1) + dt.timedelta(days=between(rng, 0, 50000))
    style = pick(rng, ("{d} {m} {y}", "{m} {d}, {y}", "{y}-{n:02d}-{d:02d}"))

    def written(date: dt.date) -> str:
        return style.format(d=date.day, m=MONTHS[date.month - 1], y=date.year, n=date.month)

    size, hard = level(rng, 1, 4)
    if form == "offset":
        days = between(rng, 3, 12 * 4**size)
        text = pick(
            rng, ("What date is {} days {} {}?", "Give the date {} days {} {}, in ISO format.")
        ).format(days, pick(rng, ("after", "before")), written(day))
        difficulty = 0.1 + 0.6 * hard
    elif form == "span":
        later = day + dt.timedelta(days=between(rng, 5, 10 * 6**size))
        unit = pick(rng, ("days", "weeks and days", "years, months and days"))
        text = f"How many {unit} lie between {written(day)} and {written(later)}?"
        difficulty = 0.15 + 0.6 * hard
    elif form == "weekday":
        if size < 3:
            name, ahead = pick(rng, WEEKDAYS), between(rng, 5, 400)
            text = f"If {written(day)} is a {name}, which day of the week is it {ahead} days later?"
            difficulty = 0.2
        else:
            text = f"On which day of the week did {written(day)} fall?"
            difficulty = 0.6
    elif form == "working":
        text = (
            f"An order placed on {written(day)} (a {WEEKDAYS[day.weekday()]}) ships after "
            f"{between(rng, 3, 15 * size)} "
            f"working days, {pick(rng, WEEKDAYS[:5])}s being a holiday at the depot. On what date does it "
            f"ship?"
        )
        difficulty = 0.45 + 0.45 * hard
    elif form == "zone":
        start, end = sample(rng, CITIES, 2)
        shift = between(rng, 2, 13)
        text = (
            f"A flight leaves {start} on {written(day)} at "
            f"{between(rng, 0, 23):02d}:{between(rng, 0, 11) * 5:02d} local "
            f"time and takes {between(rng, 2, 15)} h {between(rng, 1, 59)} min. {end} is {shift} hours "
            f"{pick(rng, ('ahead of', 'behind'))} {start}. When does it land, local time?"
        )
        difficulty = 0.35 + 0.2 * hard
    else:
        every = [between(rng, 3, 9 + 3 * size) for _ in range(1 + size // 2)]
        crews = [f"every {n} days" for n in every]
        text = (
            f"The lifts at the {pick(rng, CITIES)} office are inspected {listed(crews)}, all on "
            f"{written(day)}. "
            f"When do the inspections next fall on the same day, and how many happen in the {90 * size} "
            f"days after?"
        )
        difficulty = 0.3 + 0.5 * hard
    return Draft(text, difficulty)


_STRING_STEPS: Final[tuple[tuple[str, float], ...]] = (
    ("reverse it", 0.15),
    ("remove every vowel", 0.1),
    ("sort its letters alphabetically", 0.25),
    ("move the first {k} characters to the end", 0.2),
    ("shift each letter forward by {k} in the alphabet", 0.4),
    ("replace every '{c}' with '{d}'", 0.1),
    ("write every second character in upper case", 0.2),
    ("double each consonant", 0.2),
    ("swap the first and last letters of each word", 0.25),
    ("delete each repeated letter after its first appearance", 0.3),
    ("encode it in Morse code", 0.35),
)


def string_manipulation(rng: np.random.Generator) -> Draft:
    """Counting letters, ciphers, chains of edits, patterns."""
    form = pick(rng, ("count", "steps", "steps", "cipher", "acrostic", "nth"))
    size, hard = level(rng, 1, 5)
    words = sample(rng, WORDS, size + 1)
    phrase = pick(rng, (" ", "-", "_")).join(words)
    if form == "count":
        letters = "".join(words)
        asked = pick(rng, letters)
        text = pick(rng, ("How many times does '{}' occur in '{}'?", "Count the letter {} in: {}")).format(
            asked, phrase
        )
        difficulty = 0.15 + 0.55 * hard
    elif form == "steps":
        chosen = sample(rng, _STRING_STEPS, max(1, size - 1))
        steps = [
            step.format(k=between(rng, 2, 9), c=pick(rng, "aeinorst"), d=pick(rng, "#@*xyz"))
            for step, _ in chosen
        ]
        text = f"Take the string '{phrase}', then {', then '.join(steps)}. What is the result?"
        difficulty = min(1.0, sum(weight for _, weight in chosen) + 0.1 * hard)
    elif form == "cipher":
        shift = between(rng, 1, 25)
        secret = "".join(chr((ord(c) - 97 + shift) % 26 + 97) if c.isalpha() else c for c in phrase)
        known = rng.random() < 0.5
        hint = f"with a shift of {shift}" if known else "with an unknown shift"
        text = f"The message '{secret}' was written in a Caesar cipher {hint}. Decode it."
        difficulty = (0.4 if known else 0.6) + 0.35 * hard
    elif form == "acrostic":
        place = pick(rng, ("first", "last", "second", "middle"))
        text = f"Join the {place} letters of these words into one string: {', '.join(words)}."
        difficulty = 0.1 + 0.3 * hard
    else:
        text = (
            f"Split '{phrase}' into pieces of {between(rng, 2, 5)} characters, ignoring separators. "
            f"Which pieces are numbers {between(rng, 1, 2)} and {between(rng, 3, 4)}, read backwards?"
        )
        difficulty = 0.3 + 0.45 * hard
    return Draft(text, difficulty)


EXACT_FAMILIES: Final[dict[str, Callable[[np.random.Generator], Draft]]] = {
    "arithmetic": arithmetic,
    "word_problem": word_problem,
    "unit_conversion": unit_conversion,
    "date_arithmetic": date_arithmetic,
    "string_manipulation": string_manipulation,
}
