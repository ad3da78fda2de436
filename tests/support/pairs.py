"""Batches of preference pairs for the tiny backbones, made by their real processors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

QUESTIONS = ("What is on the table?", "Count the dogs, and name the colours that you see.", "Describe it.")
# A processor's outputs with one entry per prompt token.
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


@dataclass
class PairBatch:
    """Ordinary rows `[chosen..., rejected...]`: inputs of the model, and the response tokens [2B, L]."""

    inputs: dict[str, Any]
    response_mask: Tensor


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pair_batch(
    model: Any, processor: Any, *, pairs: int = 2, seed: int = 0, images: bool = True
) -> PairBatch:
    """Pairs with prompts and responses of different lengths, padded on the right."""
    random = np.random.default_rng(seed)
    tokenizer = getattr(processor, "tokenizer", processor)
    prompts = _prompts(model, processor, pairs, seed, images)
    prompts.pop("labels", None)
    mask = prompts.pop("attention_mask").bool()
    per_token = {key: prompts.pop(key) for key in PER_TOKEN if key in prompts}
    text_ids = tokenizer("The red square, a blue circle; 3 dogs!", add_special_tokens=False)["input_ids"]

    rows: list[dict[str, Tensor]] = []
    wanted: list[Tensor] = []
    for side in range(2):
        for pair in range(pairs):
            response = torch.tensor(random.choice(text_ids, size=4 + 3 * pair + 2 * side))
            before = {key: value[pair][mask[pair]] for key, value in per_token.items()}
            count = len(before["input_ids"])
            rows.append({key: _extend(model, key, value, response) for key, value in before.items()})
            wanted.append(torch.arange(count + len(response)) >= count)
    for row in rows:
        row["attention_mask"] = torch.ones_like(row["input_ids"])
    width = max(len(row["input_ids"]) for row in rows)
    inputs = {key: torch.stack([_pad(row[key], width) for row in rows]) for key in rows[0]}
    inputs |= {key: torch.cat([value, value]) for key, value in prompts.items() if torch.is_tensor(value)}
    return PairBatch(inputs, torch.stack([_pad(row, width) for row in wanted]))


def padded_rows(
    prompts: Sequence[np.ndarray], rows: Sequence[np.ndarray]
) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of tokens `[chosen..., rejected...]`, each its pair's prompt and a response, padded on the right:
    inputs of a language model, and the response tokens [2B, L]."""
    width = max(map(len, rows))
    ids, seen, wanted = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.from_numpy(row)
        seen[number, : len(row)] = 1
        wanted[number, len(prompts[number % len(prompts)]) : len(row)] = 1
    return {"input_ids": ids, "attention_mask": seen}, wanted.bool()


def _prompts(model: Any, processor: Any, pairs: int, seed: int, images: bool) -> dict[str, Any]:
    if not images:
        texts = [QUESTIONS[pair % len(QUESTIONS)] for pair in range(pairs)]
        tokenizer = getattr(processor, "tokenizer", processor)
        return dict(tokenizer(texts, padding=True, return_tensors="pt"))
    sizes = [(70, 56), (56, 90), (64, 64)]
    pictures = [[picture(seed + pair, *sizes[pair % 3])] for pair in range(pairs)]
    texts = [_image_prompt(model, processor, QUESTIONS[pair % len(QUESTIONS)]) for pair in range(pairs)]
    outputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    return dict(outputs)


def _image_prompt(model: Any, processor: Any, question: str) -> str:
    if not getattr(processor, "chat_template", None):
        return question
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _extend(model: Any, key: str, prompt: Tensor, response: Tensor) -> Tensor:
    if key == "input_ids":
        return torch.cat([prompt, response])
    if key == "cross_attention_mask":
        return torch.cat([prompt, prompt[-1:].expand(len(response), *prompt.shape[1:])])
    # PaliGemma reads 1 as "part of the answer"; elsewhere 1 marks an image.
    kind = int(key == "token_type_ids" and model.config.model_type == "paligemma")
    return torch.cat([prompt, prompt.new_full((len(response),), kind)])


def _pad(value: Tensor, width: int) -> Tensor:
    blank = [0] * (2 * (value.dim() - 1))
    return F.pad(value, (*blank, 0, width - len(value)))


def plain_logps(model: Any, inputs: dict[str, Any], response_mask: Tensor) -> Tensor:
    """The reference: the model's full logits in float32, softmaxed over the vocabulary, [2B, L]."""
    logits = model(**inputs, use_cache=False).logits.float()[:, :-1]
    targets = inputs["input_ids"][:, 1:, None]
    logps = F.pad(torch.log_softmax(logits, -1).gather(-1, targets)[..., 0], (1, 0))
    return torch.where(response_mask, logps, 0.0)
