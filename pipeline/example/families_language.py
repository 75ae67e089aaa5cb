"""Prompt families about text: extraction, translation, open writing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import numpy as np

from pipeline.example.vocabulary import (
    CITIES,
    COMPANIES,
    GOODS,
    MONTHS,
    NAMES,
    SURNAMES,
    WEEKDAYS,
    WORDS,
    Draft,
    between,
    level,
    listed,
    pick,
    sample,
)


def _record(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A paragraph of drawn facts and the names of the fields that it holds."""
    who, boss = (f"{n} {pick(rng, SURNAMES)}" for n in sample(rng, NAMES, 2))
    company, city = pick(rng, COMPANIES), pick(rng, CITIES)
    day, month, year = between(rng, 1, 28), pick(rng, MONTHS), between(rng, 2011, 2026)
    goods, other = sample(rng, GOODS, 2)
    amount, count = between(rng, 90, 990000) / 100, between(rng, 3, 480)
    form = pick(rng, ("invoice", "email", "incident", "listing", "minutes"))
    if form == "invoice":
        text = (
            f"{company}, {city}. Invoice {between(rng, 1000, 99999)}-{pick(rng, 'ABCDE')} of {day} "
            f"{month} {year}, "
            f"for {who}: {count} {goods}, {between(rng, 1, 40)} {other}; subtotal {amount:,.2f} EUR, "
            f"tax {between(rng, 5, 25)}%, payable within {between(rng, 7, 60)} days to {boss}."
        )
        fields = ["invoice_number", "date", "customer", "items", "subtotal", "tax_rate", "due_date", "total"]
    elif form == "email":
        text = (
            f"Hi {boss.split()[0]}, the {goods} for {company} came on {pick(rng, WEEKDAYS)}, not "
            f"{pick(rng, WEEKDAYS)} "
            f"as agreed. {count} were damaged and we were charged {amount:,.2f} USD. Call me on "
            f"+{between(rng, 1, 99)} {between(rng, 200, 999)} {between(rng, 100000, 999999)} before {day} "
            f"{month}. "
            f"Regards, {who}, {city} office"
        )
        fields = [
            "sender",
            "recipient",
            "complaint",
            "damaged_count",
            "phone",
            "deadline",
            "amount",
            "office",
        ]
    elif form == "incident":
        text = (
            f"[{year}-{between(rng, 1, 12):02d}-{day:02d} "
            f"{between(rng, 0, 23):02d}:{between(rng, 0, 59):02d}] "
            f"{pick(rng, WORDS)}-{between(rng, 1, 40)} reported error {between(rng, 400, 599)} in {city}; "
            f"{count} "
            f"requests failed over {between(rng, 2, 240)} minutes. {who} restarted the {pick(rng, WORDS)} "
            f"service, "
            f"{boss} from {company} confirmed recovery; a second alarm on {pick(rng, WORDS)} was a false "
            f"positive."
        )
        fields = [
            "timestamp",
            "host",
            "error_code",
            "failed_requests",
            "duration",
            "responder",
            "false_alarm",
            "cause",
        ]
    elif form == "listing":
        text = (
            f"To let in {city}: {between(rng, 1, 6)}-room flat, {between(rng, 24, 190)} square metres, floor "
            f"{between(rng, 0, 12)}, {amount:,.2f} a month plus {between(rng, 40, 320)} for heating, free "
            f"from "
            f"{day} {month} {year}. Deposit {between(rng, 1, 3)} months. "
            f"{pick(rng, ('Pets welcome', 'No pets'))}. "
            f"Viewings on {pick(rng, WEEKDAYS)}s with {who} of {company}."
        )
        fields = ["city", "rooms", "area", "rent", "total_monthly_cost", "available_from", "pets", "agent"]
    else:
        text = (
            f"Present: {who}, {boss}, {listed(sample(rng, NAMES, 2))}. {who.split()[0]} will order "
            f"{count} {goods} by "
            f"{day} {month}. The {other} were postponed to {pick(rng, MONTHS)}. {boss.split()[0]} "
            f"objected to the "
            f"budget of {amount:,.2f} but was outvoted {between(rng, 3, 6)} to {between(rng, 1, 2)}. "
            f"Next meeting in {city}, {pick(rng, WEEKDAYS)} at {between(rng, 8, 17)}:30."
        )
        fields = [
            "attendees",
            "action_items",
            "owner",
            "postponed",
            "vote",
            "budget",
            "next_meeting",
            "objection",
        ]
    return text, fields


def extraction(rng: np.random.Generator) -> Draft:
    """Fields to take out of a paragraph, as JSON or as a short answer."""
    text, fields = _record(rng)
    size, hard = level(rng, 1, 7)
    # The last fields of a record must be inferred rather than copied.
    wanted = sample(rng, fields, size)
    inferred = fields[-1] in wanted or fields[-2] in wanted
    if size == 1:
        task = f"What is the {wanted[0].replace('_', ' ')} in this text? Answer with the value alone."
    elif rng.random() < 0.7:
        task = f"Extract {listed(wanted)} as JSON: {json.dumps(dict.fromkeys(wanted, '...'))}."
    else:
        readable = listed([w.replace("_", " ") for w in wanted])
        task = f"List {readable}, one per line; write 'unknown' where not stated."
    prompt = f"{task}\n\n{text}" if rng.random() < 0.6 else f'"{text}"\n\n{task}'
    return Draft(prompt, 0.05 + 0.45 * hard + 0.3 * inferred)


_TONGUES: Final = (
    ("Spanish", 0.0), ("French", 0.02), ("German", 0.06), ("Italian", 0.05), ("Portuguese", 0.06),
    ("Dutch", 0.12), ("Polish", 0.25), ("Turkish", 0.32), ("Japanese", 0.35), ("Finnish", 0.42),
    ("Swahili", 0.5), ("Welsh", 0.55), ("Georgian", 0.6), ("Quechua", 0.75),
)  # fmt: skip
_CLAUSES: Final = (
    "the {w} stood by the {v} as if it had always been there",
    "{n} promised to bring the {g} back before {d}",
    "nobody in {c} had seen such {g} since {m}",
    "it rained cats and dogs while we waited for {n}",
    "the shop in {c} sells {g} for next to nothing",
    "had {n} known about the {w}, the {g} would have been saved",
    "please send {k} {g} to our office in {c}",
    "my neighbour {n} never throws a {v} away",
    "they let the cat out of the bag on {d}",
    "the {w} is heavier than it looks",
    "{n} was asked to sign for the {g} and refused",
    "we shall meet in {c} at half past {h}",
)


def translation(rng: np.random.Generator) -> Draft:
    """A composed sentence to put into another language, some with idioms or a required register."""
    tongue, rare = pick(rng, _TONGUES)
    size, hard = level(rng, 1, 4)
    clauses = [
        clause.format(
            w=pick(rng, WORDS),
            v=pick(rng, WORDS),
            n=pick(rng, NAMES),
            g=pick(rng, GOODS),
            c=pick(rng, CITIES),
            d=pick(rng, WEEKDAYS),
            m=pick(rng, MONTHS),
            k=between(rng, 2, 90),
            h=between(rng, 1, 12),
        )
        for clause in sample(rng, _CLAUSES, size)
    ]
    sentence = pick(rng, ("; ", ", and ", ", but ")).join(clauses)
    sentence = sentence[0].upper() + sentence[1:]
    idiom = 0.12 if "cats and dogs" in sentence or "out of the bag" in sentence else 0.0
    register = pick(rng, ("", "", " Use the formal register.", " Keep it colloquial.", " Make it rhyme."))
    text = pick(
        rng,
        (
            'Translate into {}: "{}."',
            'How do you say "{1}" in {0}?',
            "Put the following sentence into {}.\n\n{}.",
            'Give a natural {} version of: "{}."',
        ),
    ).format(tongue, sentence)
    return Draft(text + register, 0.08 + rare * 0.9 + 0.2 * hard + idiom + 0.15 * ("rhyme" in register))


_GENRES: Final = (
    ("product description", 0.1), ("thank-you note", 0.1), ("short story opening", 0.4), ("limerick", 0.45),
    ("sonnet", 0.7), ("wedding toast", 0.3), ("letter of complaint", 0.2), ("job advertisement", 0.15),
    ("dialogue between rivals", 0.45), ("eulogy for a pet", 0.4), ("museum label", 0.25),
    ("radio jingle", 0.4), ("blog introduction", 0.15), ("fable with a moral", 0.4),
    ("satirical editorial", 0.6), ("villanelle", 0.85),
)  # fmt: skip
_TONES: Final = (
    "warm",
    "dry",
    "mischievous",
    "solemn",
    "breathless",
    "nostalgic",
    "blunt",
    "playful",
    "wistful",
)
_RULES: Final = (
    "do not use the letter '{c}'",
    "mention {w} and {v}",
    "use exactly {k} words",
    "begin every sentence with a different letter",
    "end on a question",
    "set it in {city}",
    "address it to {n}",
    "avoid adjectives",
    "include a line in another language",
)


def open_writing(rng: np.random.Generator) -> Draft:
    """A piece to write in a genre, tone and with a number of rules; graded, not checked."""
    genre, base = pick(rng, _GENRES)
    size = between(rng, 0, 3)
    rules = [
        rule.format(
            c=pick(rng, "aesrt"),
            w=pick(rng, WORDS),
            v=pick(rng, WORDS),
            k=between(rng, 40, 220),
            city=pick(rng, CITIES),
            n=pick(rng, NAMES),
        )
        for rule in sample(rng, _RULES, size)
    ]
    topic = pick(
        rng,
        (
            f"{pick(rng, GOODS)} made by {pick(rng, COMPANIES)}",
            f"a {pick(rng, WORDS)} found in {pick(rng, CITIES)}",
            f"{pick(rng, NAMES)}, who collects {pick(rng, GOODS)}",
            f"the last {pick(rng, WEEKDAYS)} of {pick(rng, MONTHS)} in {pick(rng, CITIES)}",
            f"a quarrel over {pick(rng, GOODS)} between {listed(sample(rng, NAMES, 2))}",
        ),
    )
    text = pick(
        rng,
        ("Write a {tone} {genre} about {topic}.", "Compose a {genre} on {topic}, in a {tone} voice.",
         "I need a {tone} {genre}: the subject is {topic}."),
    ).format(tone=pick(rng, _TONES), genre=genre, topic=topic)  # fmt: skip
    if rules:
        text += f" Rules: {'; '.join(rules)}."
    return Draft(text, base * 0.75 + 0.1 * size)


LANGUAGE_FAMILIES: Final[dict[str, Callable[[np.random.Generator], Draft]]] = {
    "extraction": extraction,
    "translation": translation,
    "open_writing": open_writing,
}
