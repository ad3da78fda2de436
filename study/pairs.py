"""Preference pairs of a taught world, with the similarity and the truth of every sentence: own answers to the
clean and to the noised picture (SeVa), own answers ranked by a judge, or templates."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset_tools.sentences import split_sentences

from .answers import Answerer, features, pixels
from .models import whole
from .scenes import Scene
from .sentences import Fact, answer, describe, parse, sentences_and_facts, true_facts
from .teach import drawn

# Of 1. At .5 the answers to noised pictures are so bad that every method learns the same.
SEVA_NOISE = 0.2


@dataclass
class World:
    """A taught starting point, loaded."""

    model: Any
    tokenizer: Any
    processor: Any
    scorer: Any
    scorer_processor: Any


@dataclass
class Pairs:
    """Pairs as tokens, and what is known of each sentence. `*_ids`: sentence of each token."""

    seen: Tensor
    scenes: list[Scene]
    pictures: np.ndarray
    texts: dict[str, list[str]]
    tokens: dict[str, list[list[int]]]
    ids: dict[str, list[list[int]]] = field(default_factory=dict)
    truth: dict[str, list[list[bool]]] = field(default_factory=dict)
    similarity: dict[str, list[list[float]]] = field(default_factory=dict)
    # Log-probs of the tokens under the world's own model, kept by the first training.
    reference: dict[str, list[Tensor]] = field(default_factory=dict)
    # Of each pair, the first tokens of both answers that are not trained; empty: none.
    context: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scenes)


def load(folder: Path) -> World:
    """The world that `teach` wrote.

    Raises:
        ValueError: Weights are missing.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel, CLIPProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    model = whole(AutoModelForImageTextToText.from_pretrained(folder / "llava", **options), folder / "llava")
    processor = AutoProcessor.from_pretrained(folder / "llava")
    scorer = whole(CLIPModel.from_pretrained(folder / "clip", **options), folder / "clip")
    scorer_processor = CLIPProcessor.from_pretrained(folder / "clip")
    return World(model.eval(), processor.tokenizer, processor, scorer.eval(), scorer_processor)


def noised(pictures: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """The pictures with Gaussian noise on every pixel, of `deviation` of the range."""
    noise = np.random.default_rng(seed).normal(0, deviation * 255, pictures.shape)
    return (pictures + noise).clip(0, 255).round().astype(np.uint8)


def seva(world: World, number: int, seed: int) -> Pairs:
    """`number` pairs of own answers, to the clean picture (chosen) and the noised one; equal ones dropped."""
    scenes, pictures = drawn(number + number // 2, 500_000 + seed)
    answerer = Answerer(world.model, world.tokenizer)
    both = []
    for shift, shown in enumerate((pictures, noised(pictures, SEVA_NOISE, seed))):
        seen = features(world.model, pixels(world.processor, shown))
        both.append(answerer.sample(seen, 1.0, torch.Generator().manual_seed(2 * seed + shift))[0])
    end = world.tokenizer.eos_token_id
    kept = [
        i
        for i, (a, b) in enumerate(zip(*both, strict=True))
        if a != b and all(len(row) > 3 and row[-1] == end for row in (a, b))
    ][:number]
    chosen, rejected = ([answerer.text(rows[i]) for i in kept] for rows in both)
    return annotated(world, [scenes[i] for i in kept], pictures[kept], chosen, rejected)


def ranked(world: World, number: int, seed: int, dislike: float = 0.5) -> Pairs:
    """`number` pairs of own answers to the clean picture: best (chosen) and worst of four, for a judge
    that likes detail: the number of true facts less `dislike` times the false sentences."""
    scenes, pictures = drawn(number + number // 4, 500_000 + seed)
    answerer = Answerer(world.model, world.tokenizer)
    seen = features(world.model, pixels(world.processor, pictures))
    drawn_answers = [
        answerer.sample(seen, 1.0, torch.Generator().manual_seed(4 * seed + shift))[0] for shift in range(4)
    ]
    end = world.tokenizer.eos_token_id
    kept: list[int] = []
    texts: list[list[str]] = [[], []]
    for i, things in enumerate(scenes):
        true = true_facts(things)
        judged = []
        for rows in drawn_answers:
            if rows[i][-1] == end and len(rows[i]) > 3:
                text = answerer.text(rows[i])
                facts = parse(text)
                right = len({fact for fact in facts if fact in true})
                judged.append((right - dislike * sum(fact not in true for fact in facts), text))
        if judged and max(judged)[0] > min(judged)[0] and len(kept) < number:
            kept.append(i)
            texts[0].append(max(judged)[1])
            texts[1].append(min(judged)[1])
    return annotated(world, [scenes[i] for i in kept], pictures[kept], texts[0], texts[1])


def swapped(pairs: Pairs, share: float, seed: int) -> Pairs:
    """The pairs with chosen and rejected exchanged in this share of them: label noise."""
    wrong = set(random.Random(seed).sample(range(len(pairs)), round(share * len(pairs))))

    def exchanged(sides: dict[str, list[Any]]) -> dict[str, list[Any]]:
        one, two = sides["chosen"], sides["rejected"]
        both = [(b, a) if i in wrong else (a, b) for i, (a, b) in enumerate(zip(one, two, strict=True))]
        return {"chosen": [a for a, _ in both], "rejected": [b for _, b in both]}

    columns = ("texts", "tokens", "ids", "truth", "similarity")
    return replace(pairs, reference={}, **{name: exchanged(getattr(pairs, name)) for name in columns})


def written(world: World, number: int, seed: int, false_shares: tuple[float, float] = (0.25, 0.5)) -> Pairs:
    """Pairs by template: chosen and rejected sentences are false with these probabilities."""
    scenes, pictures = drawn(number, 500_000 + seed)
    rng = random.Random(seed)
    texts: list[list[str]] = [[], []]
    for things in scenes:
        told: list[list[Fact]] = [describe(things, rng, rng.randint(3, 7), share) for share in false_shares]
        for side, facts in enumerate(told):
            texts[side].append(answer(facts))
    return annotated(world, scenes, pictures, texts[0], texts[1])


def detailed(world: World, number: int, seed: int) -> Pairs:
    """Pairs by template, as a judge that likes length makes them: chosen answers of five to seven sentences,
    40% of them false, above answers of two to four, 30% false."""
    scenes, pictures = drawn(number, 500_000 + seed)
    rng = random.Random(seed)
    chosen = [answer(describe(things, rng, rng.randint(5, 7), 0.4)) for things in scenes]
    rejected = [answer(describe(things, rng, rng.randint(2, 4), 0.3)) for things in scenes]
    return annotated(world, scenes, pictures, chosen, rejected)


def annotated(
    world: World, scenes: list[Scene], pictures: np.ndarray, chosen: list[str], rejected: list[str]
) -> Pairs:
    """The pairs of these texts, with what is known of each sentence."""
    from aspo_plugin.alignment.sentence_ids import sentence_ids

    answerer = Answerer(world.model, world.tokenizer)
    texts = {"chosen": chosen, "rejected": rejected}
    tokens = {side: [answerer.encode(text) for text in found] for side, found in texts.items()}
    seen = features(world.model, pixels(world.processor, pictures))
    pairs = Pairs(seen, scenes, pictures, texts, tokens)
    for side, found in texts.items():
        spans = [split_sentences(text) for text in found]
        pairs.ids[side] = [
            sentence_ids(world.tokenizer, row, text, span)
            for row, text, span in zip(tokens[side], found, spans, strict=True)
        ]
        pairs.truth[side] = [
            [fact in true_facts(things) for _, fact in sentences_and_facts(text)]
            for text, things in zip(found, scenes, strict=True)
        ]
        sentences = [[text[a:b] for a, b in span] for text, span in zip(found, spans, strict=True)]
        pairs.similarity[side] = similarities(world, pictures, sentences)
    return pairs


@torch.no_grad()
def similarities(world: World, pictures: np.ndarray, sentences: list[list[str]]) -> list[list[float]]:
    """The cosine of each sentence and its picture, as `aspo-data score` computes it."""
    values = pixels(world.processor, pictures)
    images = _unit(torch.cat([_pooled(world.scorer.get_image_features(part)) for part in values.split(256)]))
    owners = torch.tensor([i for i, own in enumerate(sentences) for _ in own])
    flat = [text for own in sentences for text in own]
    found: list[float] = []
    for start in range(0, len(flat), 512):
        words = world.scorer_processor.tokenizer(flat[start : start + 512], return_tensors="pt", padding=True)
        text = _unit(_pooled(world.scorer.get_text_features(**words)))
        found += (text * images[owners[start : start + 512]]).sum(-1).tolist()
    values_of = iter(found)
    return [[next(values_of) for _ in own] for own in sentences]


def _pooled(output: Any) -> Tensor:
    return output if torch.is_tensor(output) else output.pooler_output  # transformers 5 gives an output


def _unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)
