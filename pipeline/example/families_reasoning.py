"""Prompt families that ask for reasoning over stated facts: logic, tables, ordering, planning."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np

from pipeline.example.vocabulary import (
    CITIES,
    COMPANIES,
    GOODS,
    NAMES,
    WEEKDAYS,
    Draft,
    between,
    level,
    listed,
    pick,
    sample,
)

_NONSENSE: Final = (
    "blorps",
    "quibs",
    "zanders",
    "mivets",
    "tralls",
    "fenwigs",
    "gorbles",
    "snibs",
    "yorps",
    "drells",
)
_RELATIONS: Final = (("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("richer", "poorer"))


def logic(rng: np.random.Generator) -> Draft:
    """Order chains (true to a hidden order), syllogisms, knights and knaves, who-owns-what."""
    form = pick(rng, ("chain", "syllogism", "knights", "assignment"))
    size, hard = level(rng, 3, 6)
    people = sample(rng, NAMES, size)
    if form == "chain":
        more, less = pick(rng, _RELATIONS)
        # `people` is the hidden order; each neighbouring pair is told once, in a random direction and order.
        facts = [
            f"{high} is {more} than {low}" if rng.random() < 0.5 else f"{low} is {less} than {high}"
            for high, low in pairwise(people)
        ]
        facts = sample(rng, facts, len(facts))
        first, second = sample(rng, people, 2)
        question = pick(
            rng,
            (
                f"Counting from the {pick(rng, (more, less))} end, who is number "
                f"{between(rng, 2, size - 1)}?",
                f"Is {first} {more} than {second}?",
                f"List everybody {less} than {first}.",
            ),
        )
        text = f"{'. '.join(facts)}. {question}"
        difficulty = 0.1 + 0.45 * hard
    elif form == "syllogism":
        kinds = sample(rng, _NONSENSE, size)
        quantifiers = [pick(rng, ("All", "All", "No", "Some")) for _ in kinds[1:]]
        facts = [f"{q} {x} are {y}" for q, x, y in zip(quantifiers, kinds, kinds[1:], strict=False)]
        text = (
            f"{'. '.join(sample(rng, facts, len(facts)))}. Does it follow that "
            f"{pick(rng, ('all', 'some', 'no'))} {kinds[0]} are {kinds[-1]}?"
        )
        difficulty = 0.3 + 0.45 * hard
    elif form == "knights":
        knight = {person: bool(rng.random() < 0.5) for person in people}
        claims = []
        for speaker in people:
            one, two = sample(rng, [p for p in people if p != speaker], 2)
            said = {
                f"{one} is a knave": not knight[one],
                f"{one} is a knight": knight[one],
                f"{one} and {two} are of the same kind": knight[one] == knight[two],
                f"{one} is a knight or {two} is a knave": knight[one] or not knight[two],
            }
            # A knight's claim is true and a knave's false, so every puzzle has a solution.
            claims.append(
                f'{speaker} says: "{pick(rng, [c for c, true in said.items() if true == knight[speaker]])}."'
            )
        text = f"Knights always tell the truth and knaves always lie. {' '.join(claims)} Who is what?"
        difficulty = 0.5 + 0.5 * hard
    else:
        goods = sample(rng, GOODS, size)
        cities = sample(rng, CITIES, size)
        clues = [
            f"{people[i]} does not sell {goods[(i + between(rng, 1, size - 1)) % size]}"
            for i in range(size - 1)
        ]
        clues += [f"whoever sells {goods[i]} lives in {cities[i]}" for i in range(size - 1)]
        clues.append(f"{people[0]} lives in {cities[0]}")
        text = (
            f"{listed(people)} each sell one of {listed(sample(rng, goods, size))} and live in different "
            f"cities: "
            f"{listed(sample(rng, cities, size))}. Clues: {'; '.join(sample(rng, clues, len(clues)))}. "
            f"What can {pick(rng, people)} be selling?"
        )
        difficulty = 0.5 + 0.45 * hard
    return Draft(text, difficulty)


def table_query(rng: np.random.Generator) -> Draft:
    """A small table (Markdown or CSV) and a question that takes one to three steps over it."""
    size, hard = level(rng, 3, 9)
    kind, rows = pick(rng, (("city", CITIES), ("product", GOODS), ("seller", NAMES), ("company", COMPANIES)))
    columns = sample(
        rng, ("orders", "returns", "revenue", "staff", "stock", "visits", "rating", "delay_min"), 3
    )
    header = [kind, *columns]
    body = [
        [row, *(str(between(rng, 1, 10 ** between(rng, 2, 4))) for _ in columns)]
        for row in sample(rng, rows, size)
    ]
    if rng.random() < 0.5:
        lines = [" | ".join(line) for line in [header, ["---"] * 4, *body]]
        table = "\n".join(f"| {line} |" for line in lines)
    else:
        table = "\n".join(",".join(line) for line in [header, *body])
    one, two, three = columns
    threshold = between(rng, 20, 3000)
    question, steps = pick(
        rng,
        (
            (f"Which {kind} has the highest {one}?", 0.05),
            (f"What is the {two} of {pick(rng, body)[0]}?", 0.0),
            (f"How many rows have {one} above {threshold}?", 0.15),
            (f"What is the sum of {two} where {one} is below {threshold}?", 0.4),
            (f"Rank the rows by the ratio of {one} to {three}.", 0.5),
            (f"By how much does the mean {three} exceed the median {two}?", 0.6),
            (f"Among rows with {one} under {threshold}, which has the lowest {two} plus {three}?", 0.4),
        ),
    )
    text = f"{question}\n\n{table}" if rng.random() < 0.5 else f"{table}\n\n{question}"
    return Draft(text, 0.05 + steps + 0.3 * hard)


# Each scale is written in its true order.
# fmt: off
_SCALES: Final[tuple[tuple[str, float, tuple[str, ...]], ...]] = (
    ("from lightest to heaviest", 0.1, (
        "a mosquito", "a house mouse", "a hedgehog", "a domestic cat", "a beaver", "a wolf", "a pony",
        "a polar bear", "a giraffe", "a hippopotamus", "an African elephant", "a blue whale")),
    ("from shortest to longest duration", 0.15, (
        "a camera flash", "a sneeze", "boiling an egg", "a football match", "a night's sleep", "a weekend",
        "a pregnancy", "a medical degree", "a mortgage", "a century", "the last ice age")),
    ("by date, earliest first", 0.4, (
        "the building of the pyramids at Giza", "the founding of Rome", "the fall of Constantinople",
        "the first voyage of Columbus", "the French Revolution", "the opening of the Suez Canal",
        "the first powered flight", "the Moon landing", "the fall of the Berlin Wall",
        "the first smartphone")),
    ("from coldest to hottest", 0.3, (
        "liquid nitrogen", "dry ice", "a household freezer", "melting ice", "a spring day",
        "a healthy human body", "boiling water", "a pizza oven", "molten lead", "lava",
        "the surface of the Sun")),
    ("from slowest to fastest", 0.2, (
        "a growing fingernail", "a snail", "a tortoise", "a brisk walker", "a marathon winner",
        "a racehorse", "a high-speed train", "a passenger jet", "a rifle bullet", "the Earth in its orbit",
        "light")),
    ("by price, cheapest first", 0.35, (
        "a paper clip", "a bus ticket", "a paperback", "a pair of running shoes", "a bicycle",
        "a family car", "a detached house", "a passenger airliner", "an aircraft carrier")),
    ("by population, smallest first", 0.55, (
        "Iceland", "Estonia", "New Zealand", "Switzerland", "Australia", "Canada", "Spain", "Germany",
        "Japan", "Brazil", "Indonesia", "India")),
    ("by when they are done, first step first", 0.15, (
        "sift the flour", "cream the butter and sugar", "beat in the eggs", "fold in the flour",
        "fill the tin", "bake the cake", "let it cool", "spread the icing", "light the candles")),
    ("by hardness, softest first", 0.7, (
        "talc", "gypsum", "calcite", "fluorite", "apatite", "orthoclase", "quartz", "topaz", "corundum",
        "diamond")),
    ("by distance from the Earth, nearest first", 0.5, (
        "the International Space Station", "a geostationary satellite", "the Moon", "Mars", "Jupiter",
        "Neptune", "Proxima Centauri", "the Orion Nebula", "the Andromeda Galaxy")),
    ("by wavelength, longest first", 0.65, (
        "long-wave radio", "FM radio", "microwaves", "infrared light", "red light", "green light",
        "violet light", "ultraviolet light", "X-rays", "gamma rays")),
)
# fmt: on


def ordering(rng: np.random.Generator) -> Draft:
    """Everyday knowledge: put things in order along a scale."""
    scale, base, items = pick(rng, _SCALES)
    size, hard = level(rng, 3, 8)
    chosen = sample(rng, items, size)
    text = pick(
        rng,
        (
            "Put these in order {scale}: {items}.",
            "Arrange the following {scale}: {items}.",
            "Sort {scale}, and answer as a numbered list: {items}.",
            "Here is a list: {items}. Give it back {scale}.",
        ),
    ).format(scale=scale, items=", ".join(chosen))
    if rng.random() < 0.25:
        text += f" Which one would be number {between(rng, 2, size)}?"
    return Draft(text, base + 0.35 * hard - 0.05)


_JOBS: Final = (
    "survey the site", "order the timber", "dig the trench", "lay the pipes", "pour the slab",
    "raise the frame", "wire the rooms", "fit the windows", "plaster the walls", "paint the doors",
    "hang the sign", "test the alarm",
)  # fmt: skip


def planning(rng: np.random.Generator) -> Draft:
    """Meetings, job networks, round trips and packing under limits."""
    form = pick(rng, ("meeting", "jobs", "trip", "budget"))
    size, hard = level(rng, 3, 7)
    if form == "meeting":
        people = sample(rng, NAMES, size)
        busy = []
        for person in people:
            start = between(rng, 8, 15)
            busy.append(
                f"{person} is busy on {pick(rng, WEEKDAYS[:5])} from {start}:00 to "
                f"{start + between(rng, 1, 3)}:30"
            )
        text = (
            f"Find the first {between(rng, 2, 6) * 15}-minute slot in a working week (9:00 to 17:00) that "
            f"suits "
            f"everybody: {'; '.join(busy)}. {people[0]} cannot do {pick(rng, WEEKDAYS[:5])}s at all."
        )
        difficulty = 0.2 + 0.5 * hard
    elif form == "jobs":
        jobs = sample(rng, _JOBS, size)
        lines = []
        for i, job in enumerate(jobs):
            # Only earlier jobs are named, so that the network has no cycle.
            before = sample(rng, jobs[:i], min(i, between(rng, 0, 2)))
            lines.append(
                f"{job} ({between(rng, 1, 9)} days" + (f", after {listed(before)})" if before else ")")
            )
        text = (
            f"A crew of {between(rng, 1, 4)} must {'; '.join(lines)}. Each job takes one person. "
            f"{pick(rng, ('What is the shortest time to finish?', 'Which jobs are on the critical path?'))}"
        )
        difficulty = 0.35 + 0.55 * hard
    elif form == "trip":
        cities = sample(rng, CITIES, size)
        legs = [
            f"{cities[i]}-{cities[j]} {between(rng, 40, 900)} km"
            for i in range(size)
            for j in range(i + 1, size)
            if j == i + 1 or rng.random() < 0.45
        ]
        text = (
            f"A courier starts in {cities[0]} and must reach {listed(cities[1:])}. Roads: {', '.join(legs)}. "
            + pick(
                rng,
                ("Plan the shortest route.", "Plan the shortest round trip.", "Which road is not needed?"),
            )
        )
        difficulty = 0.3 + 0.6 * hard
    else:
        goods = sample(rng, GOODS, size)
        offers = [
            f"{g} (${between(rng, 5, 90)}, {between(rng, 1, 15)} kg, worth {between(rng, 1, 10)} points)"
            for g in goods
        ]
        text = (
            f"You may spend ${between(rng, 60, 240)} and carry {between(rng, 10, 35)} kg. Offers: "
            f"{'; '.join(offers)}. "
            f"Choose at most one of each so that the points are as many as possible."
        )
        difficulty = 0.35 + 0.5 * hard
    return Draft(text, difficulty)


REASONING_FAMILIES: Final[dict[str, Callable[[np.random.Generator], Draft]]] = {
    "logic": logic,
    "table_query": table_query,
    "ordering": ordering,
    "planning": planning,
}
