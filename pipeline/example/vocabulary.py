"""Words and draws shared by the prompt families of the embedded example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Draft:
    """A prompt as a family writes it.

    Attributes:
        prompt: the text a model would be sent.
        difficulty: structural difficulty in [0, 1], from what the text asks for (digits, steps, rows, ...).
        answer: the exact number asked for, where it was computed along with the text.
    """

    prompt: str
    difficulty: float
    answer: Fraction | None = None


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.integers(len(items)))]


def sample(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """`count` different items in random order; ValueError if there are fewer."""
    return [items[int(i)] for i in rng.choice(len(items), size=count, replace=False)]


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer in [low, high], both ends included."""
    return int(rng.integers(low, high + 1))


def level(rng: np.random.Generator, low: int, high: int) -> tuple[int, float]:
    """A size in [low, high] and its place in that range, in [0, 1]; the usual driver of a difficulty."""
    size = between(rng, low, high)
    return size, (size - low) / (high - low)


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """`a, b and c`."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} {conjunction} {items[-1]}"


# fmt: off
NAMES = (
    "Amara", "Bastien", "Chidi", "Dagny", "Elif", "Farid", "Greta", "Hiroshi", "Ingrid", "Jomo", "Katya",
    "Leandro", "Mireille", "Nikhil", "Oksana", "Pablo", "Quentin", "Rosalind", "Sipho", "Tamsin", "Umar",
    "Valeria", "Wanjiru", "Xavier", "Yusuf", "Zofia", "Anneke", "Bogdan", "Carys", "Dmitri", "Esperanza",
    "Fiona", "Gustavo", "Hana",
)
SURNAMES = (
    "Okafor", "Lindqvist", "Marchetti", "Tanaka", "Ferreira", "Novak", "Haddad", "Brennan", "Kowalska",
    "Achterberg", "Mwangi", "Delacroix", "Petrov", "Sandoval", "Whitlock", "Iyer", "Castellano", "Grimaldi",
    "Osei", "Vanterpool",
)
CITIES = (
    "Lisbon", "Nairobi", "Osaka", "Bergen", "Cusco", "Tbilisi", "Halifax", "Cardiff", "Hanoi", "Valencia",
    "Tallinn", "Montreal", "Accra", "Krakow", "Perth", "Oaxaca", "Jaipur", "Trieste", "Izmir", "Quito",
    "Aberdeen", "Porto", "Dakar", "Vilnius", "Busan", "Rotterdam", "Muscat", "Leipzig", "Bilbao", "Galway",
)
GOODS = (
    "notebooks", "ceramic mugs", "bicycle tyres", "lanterns", "wool blankets", "seed packets", "desk lamps",
    "kettles", "chess sets", "umbrellas", "water filters", "hiking boots", "violin strings",
    "paint brushes", "solar chargers", "tea tins", "rain jackets", "garden spades", "picture frames",
    "candles", "thermos flasks", "rulers", "puzzles",
)
WORDS = (
    "harbour", "lantern", "whistle", "cobalt", "meadow", "thimble", "orchard", "gravity", "pelican",
    "quarry", "saffron", "tundra", "velvet", "walnut", "zephyr", "anchor", "bramble", "cinder", "dolphin",
    "ember", "fathom", "glacier", "hazel", "indigo", "juniper", "kestrel", "marble", "nectar", "obsidian",
    "parchment", "quiver", "ripple", "sparrow", "trellis", "umbra", "vortex", "willow", "yonder", "beacon",
    "cascade", "driftwood", "equinox", "festival", "granite",
)
COMPANIES = (
    "Northgate Optics", "Bluefin Logistics", "Marrow & Pine", "Calder Robotics", "Heron Foods",
    "Silverlake Textiles", "Ostrava Glass", "Juno Analytics", "Red Kite Energy", "Tidewater Supply",
    "Aldous Press", "Fernhill Dairy", "Copperline Rail", "Mistral Paper", "Zenith Ceramics",
    "Lowland Shipping",
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# fmt: on
