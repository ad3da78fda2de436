"""The small LLaVA from the inside: features of pictures, log-probs of answers, samples. For speed only:
the same numbers as the model's own `forward`, without running the vision tower again for every answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .models import IMAGE_TOKENS, QUESTION

LONGEST = 64  # tokens of an answer


def pixels(processor: Any, pictures: Sequence[np.ndarray]) -> Tensor:
    """`[N, 3, SIZE, SIZE]`, as the processor makes them."""
    return processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]


@torch.no_grad()
def features(model: Any, values: Tensor) -> Tensor:
    """`[N, 16, WIDTH]`: what the vision tower sees, before the projector."""
    layer = model.config.vision_feature_layer
    parts = [
        model.model.vision_tower(part, output_hidden_states=True).hidden_states[layer][:, 1:]
        for part in values.split(512)
    ]
    return torch.cat(parts)


class Answerer:
    """A model, its tokenizer, and the prompt that all answers follow."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        image = "<image>" * IMAGE_TOKENS
        prompt = f"USER: {image}{QUESTION} ASSISTANT:"
        self.prompt = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        self.is_image = self.prompt == tokenizer.convert_tokens_to_ids("<image>")

    def encode(self, answer: str) -> list[int]:
        """The tokens of an answer and its end."""
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> Tensor:
        """`[N, longest]`, filled with the padding token, or with `value`."""
        fill = self.tokenizer.pad_token_id if value is None else value
        width = max(map(len, rows))
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

    def _start(self, seen: Tensor) -> Tensor:
        embed = self.model.get_input_embeddings()
        start = embed(self.prompt).repeat(len(seen), 1, 1)
        start[:, self.is_image] = self.model.model.multi_modal_projector(seen)
        return start

    def logits(self, seen: Tensor, ids: Tensor) -> Tensor:
        """`[N, L, V]`: at position t the prediction of `ids[:, t]`."""
        embed = self.model.get_input_embeddings()
        inputs = torch.cat([self._start(seen), embed(ids[:, :-1])], dim=1)
        hidden = self.model.model.language_model(inputs_embeds=inputs).last_hidden_state
        return self.model.lm_head(hidden[:, len(self.prompt) - 1 :])

    def logps(self, seen: Tensor, ids: Tensor) -> Tensor:
        """`[N, L]` log-probs of the tokens, 0 at padding."""
        chosen = self.logits(seen, ids).log_softmax(-1).gather(2, ids.unsqueeze(2)).squeeze(2)
        return torch.where(ids == self.tokenizer.pad_token_id, 0.0, chosen)

    @torch.no_grad()
    def sample(
        self, seen: Tensor, temperature: float, generator: torch.Generator | None = None
    ) -> tuple[list[list[int]], float]:
        """Answers as token ids (with their end), and the mean entropy in nats per token that was drawn from.

        A temperature of 0 is greedy.
        """
        from transformers import DynamicCache

        answers: list[list[int]] = []
        entropy = tokens = 0.0
        for part in seen.split(512):
            cache = DynamicCache()
            inputs = self._start(part)
            done = torch.zeros(len(part), dtype=torch.bool)
            drawn: list[Tensor] = []
            for _ in range(LONGEST):
                output = self.model.model.language_model(
                    inputs_embeds=inputs, past_key_values=cache, use_cache=True
                )
                scores = self.model.lm_head(output.last_hidden_state[:, -1])
                if temperature:
                    logp = (scores / temperature).log_softmax(-1)
                    each = -(logp.exp() * logp).sum(-1)
                    entropy, tokens = entropy + float(each[~done].sum()), tokens + float((~done).sum())
                    new = torch.multinomial(logp.exp(), 1, generator=generator).squeeze(1)
                else:
                    new = scores.argmax(-1)
                new = torch.where(done, self.tokenizer.pad_token_id, new)
                drawn.append(new)
                done |= new == self.tokenizer.eos_token_id
                if bool(done.all()):
                    break
                inputs = self.model.get_input_embeddings()(new).unsqueeze(1)
            for row in torch.stack(drawn, 1).tolist():
                end = self.tokenizer.eos_token_id
                answers.append(
                    row[: row.index(end) + 1]
                    if end in row
                    else [i for i in row if i != self.tokenizer.pad_token_id]
                )
        return answers, entropy / max(tokens, 1.0)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
