"""Pairs of one better and one worse next sentence after the same context, as SENTINEL makes them
(arXiv 2507.12455), with the world's scorer in place of its object detectors."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from .answers import Answerer, features, pixels
from .pairs import Pairs, World, annotated, similarities
from .sentences import split
from .teach import drawn

CANDIDATES = 4
LONGEST = 16  # tokens of a sentence


def one_sentence(world: World, number: int, seed: int) -> Pairs:
    """`number` pairs: the first sentences of an answer of the model's own, and behind them, of four next
    sentences of its own, the one that fits the picture best (chosen) and the one that fits it least. Equal
    ones are dropped. The context is not trained, and neither is an end of the answer."""
    scenes, pictures = drawn(number + number // 2, 500_000 + seed)
    answerer = Answerer(world.model, world.tokenizer)
    seen = features(world.model, pixels(world.processor, pictures))
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(2 * seed)
    begun: list[list[str]] = []
    for row in answerer.sample(seen, 1.0, generator)[0]:
        sentences = split(answerer.text(row))
        begun.append(sentences[: rng.randrange(max(len(sentences), 1))])
    contexts = [" ".join(sentences) for sentences in begun]
    starts = [answerer.encode(text)[:-1] if text else [] for text in contexts]
    found = [next_sentences(answerer, seen, starts, generator) for _ in range(CANDIDATES)]
    candidates = [sorted({text for text in texts if text}) for texts in zip(*found, strict=True)]
    fits = similarities(world, pictures, candidates)
    kept = [i for i, texts in enumerate(candidates) if len(texts) > 1][:number]
    best = [candidates[i][fits[i].index(max(fits[i]))] for i in kept]
    worst = [candidates[i][fits[i].index(min(fits[i]))] for i in kept]
    whole = [
        [f"{contexts[i]} {text}".strip() for i, text in zip(kept, texts, strict=True)]
        for texts in (best, worst)
    ]
    pairs = annotated(world, [scenes[i] for i in kept], pictures[kept], *whole)
    for side, rows in pairs.tokens.items():
        pairs.tokens[side] = [row[:-1] for row in rows]
        pairs.ids[side] = [ids[:-1] for ids in pairs.ids[side]]
    pairs.context = [len(starts[i]) for i in kept]
    for i, length in enumerate(pairs.context):
        both = [pairs.tokens[side][i][:length] for side in ("chosen", "rejected")]
        assert both[0] == both[1] == starts[kept[i]], "the context is not what both answers begin with"
    return pairs


@torch.no_grad()
def next_sentences(
    answerer: Answerer, seen: Tensor, begun: list[list[int]], generator: torch.Generator
) -> list[str]:
    """One sentence of the model's own behind each of `begun`, at temperature 1; "" where it ends instead."""
    end = answerer.tokenizer.eos_token_id
    rows, done = [list(row) for row in begun], [False] * len(begun)
    for _ in range(LONGEST):
        for part in torch.arange(len(rows)).split(512):
            some = [int(i) for i in part if not done[int(i)]]
            if not some:
                continue
            ids = answerer.pad([[*rows[i], answerer.tokenizer.pad_token_id] for i in some])
            places = torch.tensor([len(rows[i]) for i in some])
            scores = answerer.logits(seen[some], ids)[torch.arange(len(some)), places]
            new = torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(1).tolist()
            for i, token in zip(some, new, strict=True):
                rows[i].append(token)
                told = answerer.text(rows[i][len(begun[i]) :])
                done[i] = token == end or told.endswith(".")
    texts = [answerer.text(row[len(start) :]) for row, start in zip(rows, begun, strict=True)]
    return [text if text.endswith(".") else "" for text in texts]
