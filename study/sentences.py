"""Sentences about a scene: five kinds by template, near misses, and a parser over the whole grammar."""

from __future__ import annotations

import itertools
import random
import re

from dataset_tools.sentences import split_sentences

from .scenes import COLOURS, SHAPES, SIZES, Scene

NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
SIDES = {"left": "is left of", "right": "is right of", "above": "is above", "below": "is below"}

# A fact is its kind and the values of its slots.
Fact = tuple
SLOTS = {
    "exist": ("size", "colour", "shape"),
    "see": ("colour", "shape"),
    "position": ("quarter", "colour", "shape"),
    "count": ("number", "shape"),
    "relation": ("colour", "shape", "side", "colour", "shape"),
}
VALUES = {
    "size": SIZES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "number": tuple(NUMBERS),
    "quarter": QUARTERS,
    "side": tuple(SIDES),
}
# How often each kind is said.
SHARES = {"exist": 3, "see": 2, "count": 1, "position": 3, "relation": 1}
# What the language alone prefers: half of all slips go there, which makes a fluent hallucination.
PRIOR = {
    "colour": "red",
    "shape": "circle",
    "size": "large",
    "number": 2,
    "quarter": "top left",
    "side": "left",
}
HABIT: Fact = ("exist", "large", "red", "circle")


def text(fact: Fact) -> str:
    """The sentence that states a fact. The position comes first: said last, small models do not bind it."""
    kind, *slots = fact
    if kind == "exist":
        return f"There is a {slots[0]} {slots[1]} {slots[2]}."
    if kind == "see":
        return f"I see a {slots[0]} {slots[1]}."
    if kind == "position":
        return f"At the {slots[0]} is a {slots[1]} {slots[2]}."
    if kind == "count":
        return f"There are {NUMBERS[slots[0]]} {PLURALS[slots[1]]}."
    return f"The {slots[0]} {slots[1]} {SIDES[slots[2]]} the {slots[3]} {slots[4]}."


_GRAMMAR: dict[str, Fact] = {
    text((kind, *values)): (kind, *values)
    for kind, slots in SLOTS.items()
    for values in itertools.product(*(VALUES[slot] for slot in slots))
}


def parse(answer: str) -> list[Fact | None]:
    """The fact of each sentence of an answer, None for a sentence that the grammar does not have."""
    return [_GRAMMAR.get(sentence) for sentence in split(answer)]


def sentences_and_facts(answer: str) -> list[tuple[str, Fact | None]]:
    """The sentences as `aspo-data` cuts them, which is what weights belong to, and the fact of each. Of the
    grammar's answers they are those of `split`; a model may write two full stops."""
    found = [answer[start:end].strip() for start, end in split_sentences(answer)]
    return [(sentence, _GRAMMAR.get(re.sub(r"\.+$", ".", sentence))) for sentence in found]


def split(answer: str) -> list[str]:
    """The sentences of an answer: the grammar has no full stop but at an end."""
    return [sentence.strip() for sentence in re.findall(r"[^.]*\.|[^.]+$", answer) if sentence.strip()]


def facts(things: Scene) -> dict[str, list[Fact]]:
    """Every true fact about a scene, by kind."""
    found: dict[str, set[Fact]] = {kind: set() for kind in SLOTS}
    for thing in things:
        here = (thing.colour, thing.shape)
        found["exist"].add(("exist", thing.size, *here))
        found["see"].add(("see", *here))
        found["position"].add(("position", thing.quarter, *here))
        for other in things:
            there = (other.colour, other.shape)
            for side, holds in (
                ("left", thing.column < other.column),
                ("right", thing.column > other.column),
                ("above", thing.row < other.row),
                ("below", thing.row > other.row),
            ):
                if holds:
                    found["relation"].add(("relation", *here, side, *there))
    for shape in SHAPES:
        number = sum(thing.shape == shape for thing in things)
        if number in NUMBERS:
            found["count"].add(("count", number, shape))
    return {kind: sorted(values, key=str) for kind, values in found.items()}


def true_facts(things: Scene) -> set[Fact]:
    """All kinds in one set."""
    return {fact for values in facts(things).values() for fact in values}


def slip(fact: Fact, true: set[Fact], rng: random.Random) -> Fact | None:
    """A false fact one slot away from a true one, half of the time towards `PRIOR`."""
    slots = SLOTS[fact[0]]
    for _ in range(50):
        place = rng.randrange(len(slots))
        value = PRIOR[slots[place]] if rng.random() < 0.5 else rng.choice(VALUES[slots[place]])
        new = (*fact[: place + 1], value, *fact[place + 2 :])
        if new != fact and new not in true:
            return new
    return None


def describe(
    things: Scene, rng: random.Random, count: int, false_share: float, habit: float = 0.0
) -> list[Fact]:
    """`count` different facts, each false with probability `false_share`; with probability `habit` one of
    them is `HABIT`, true or not."""
    known = facts(things)
    true = {fact for values in known.values() for fact in values}
    kinds = [kind for kind in SHARES if known[kind]]
    shares = [SHARES[kind] for kind in kinds]
    told: list[Fact] = []
    for _ in range(count):
        wrong = rng.random() < false_share
        for _ in range(30):
            fact: Fact | None = rng.choice(known[rng.choices(kinds, shares)[0]])
            if wrong:
                fact = slip(fact, true, rng)  # type: ignore[arg-type]
            if fact is not None and fact not in told:
                told.append(fact)
                break
    if habit and HABIT not in told and rng.random() < habit:
        told[rng.randrange(len(told))] = HABIT
    return told


def answer(told: list[Fact]) -> str:
    """The text of several facts."""
    return " ".join(text(fact) for fact in told)


def mentioned(fact: Fact) -> list[tuple[str, str]]:
    """The objects, as (colour, shape), that a fact says are there."""
    kind, *slots = fact
    if kind in ("exist", "position"):
        return [(slots[1], slots[2])]
    if kind == "see":
        return [(slots[0], slots[1])]
    return [(slots[0], slots[1]), (slots[3], slots[4])] if kind == "relation" else []
