"""One preference pair of a dataset to what the collator needs: prompt, response tokens, sentence ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aspo_plugin.alignment.sentence_ids import AlignmentError, sentence_ids
from aspo_plugin.training.image_check import UnreadableImage, readable_size
from aspo_plugin.training.refusals import (
    RefusedRow,
    StopRun,
    checked_prefix,
    checked_similarities,
    checked_spans,
)
from dataset_tools.dataset.schema import IMAGE_MARKER, count_markers
from dataset_tools.sentences import split_sentences

from .messages import PLAIN, kind_of, parts, text_pair


@dataclass(frozen=True)
class LengthLimit:
    """What happens to a pair longer than `max_length` tokens, image tokens included.

    `truncate` cuts the responses, `drop` refuses the row, `raise` stops. A prompt that leaves no room for a
    response is never cut: the row is refused, or the run stops with `raise`. None is no limit.
    """

    max_length: int | None = None
    strategy: str = "truncate"
    name: str = "max_length"


class RowPreparer:
    """Turns rows into prepared rows for one tokenizer or processor.

    A prepared row has `prompt` (rendered text), `prompt_ids` (its tokens, images not expanded),
    `chosen_ids`, `rejected_ids`, `sentence_ids` (one per token of `chosen_ids`; -1: untrained) and
    `similarity` (one per sentence, or None); with `weight_rejected` also `rejected_sentence_ids` and
    `rejected_similarity`.
    """

    def __init__(self, processing_class: Any, limit: LengthLimit, weight_rejected: bool = False) -> None:
        from transformers import ProcessorMixin

        self.processor = processing_class if isinstance(processing_class, ProcessorMixin) else None
        self.processing_class = processing_class
        self.tokenizer = processing_class.tokenizer if self.processor is not None else processing_class
        self.limit = limit
        self.weight_rejected = weight_rejected
        self._image_tokens: dict[tuple[tuple[int, int], ...], int] = {}
        own = getattr(processing_class, "chat_template", None)
        self._template = own or self.tokenizer.chat_template
        self._template_option = {} if own else {"chat_template": self._template}
        self._forbidden = set(_image_token_ids(self.processor, self.tokenizer))
        if self.processor is not None and self._template:
            self._check_template()

    def __call__(self, row: dict[str, Any], images: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The prepared row. Raises `RefusedRow`, or `StopRun` for a limit or a template that ends the run."""
        messages, chosen, rejected = text_pair(row, len(images))
        if not images and type(self.processor).__name__ == "InstructBlipProcessor":
            raise RefusedRow("no_image")
        if self.processor is not None and not images and count_markers(messages):
            raise RefusedRow("markers", f"{count_markers(messages)} {IMAGE_MARKER} markers, 0 images")
        plain = messages[0]["role"] == PLAIN
        shown = self._without_end_tokens(chosen) if plain else chosen
        spans, similarity = _annotations(row, shown, "chosen")
        options = template_options(row)
        prompt, chosen_text, rejected_text = self._render(messages, chosen, rejected, len(images), options)
        prompt_ids = self._encode(prompt, plain)
        chosen_ids = self._completion(prompt, chosen_text, plain)
        rejected_ids = self._completion(prompt, rejected_text, plain)
        unwanted = self._forbidden & {*chosen_ids, *rejected_ids, *(() if images else prompt_ids)}
        if unwanted:
            raise RefusedRow("stray_token")
        room = self._room(len(prompt_ids) + (self._extra_tokens(images) if images else 0), bool(images))
        if (
            self.limit.strategy == "drop"
            and room is not None
            and max(map(len, (chosen_ids, rejected_ids))) > room
        ):
            longest = max(len(chosen_ids), len(rejected_ids))
            raise RefusedRow("too_long", f"by {longest - room} tokens of {self.limit.max_length}")
        if self.limit.strategy == "raise" and room is not None:
            longest = max(len(chosen_ids), len(rejected_ids))
            if longest > room:
                raise StopRun(self._too_long(longest - room))
        chosen_ids, rejected_ids = chosen_ids[:room], rejected_ids[:room]
        given = checked_prefix(row.get("untrained_prefix"), chosen, rejected)
        ids = self._sentence_ids(chosen_ids, shown, spans, rejected_ids, "chosen", given)
        weighted: dict[str, Any] = {}
        if self.weight_rejected:
            shown = self._without_end_tokens(rejected) if plain else rejected
            spans, values = _annotations(row, shown, "rejected")
            found = self._sentence_ids(rejected_ids, shown, spans, chosen_ids, "rejected", given)
            weighted["rejected_sentence_ids"] = found
            weighted["rejected_similarity"] = values if values is None else values[: max(found) + 1]
        return {
            "prompt": prompt,
            "prompt_ids": prompt_ids,
            "chosen_ids": chosen_ids,
            "rejected_ids": rejected_ids,
            "sentence_ids": ids,
            "similarity": similarity if similarity is None else similarity[: max(ids) + 1],
            **weighted,
        }

    def _sentence_ids(
        self,
        token_ids: list[int],
        shown: str,
        spans: list[tuple[int, int]],
        other_ids: list[int],
        side: str,
        given: int,
    ) -> list[int]:
        try:
            ids = sentence_ids(self.tokenizer, token_ids, shown, spans, other_ids, given)
        except AlignmentError as error:
            raise RefusedRow("rewritten", str(error)) from error
        if max(ids) < 0:
            raise RefusedRow(
                "too_long", f"{self.limit.max_length} tokens hold no text of the {side} response"
            )
        return ids

    def _render(
        self,
        messages: list[dict[str, str]],
        chosen: str,
        rejected: str,
        images: int,
        options: dict[str, Any],
    ) -> tuple[str, str, str]:
        if messages[0]["role"] == PLAIN:
            end = self.tokenizer.eos_token or ""
            responses = [text if text.endswith(end) else text + end for text in (chosen, rejected)]
            return messages[0]["content"], responses[0], responses[1]
        if not self._template:
            raise StopRun(
                f"{type(self.processing_class).__name__} has no chat template to turn messages into text: "
                "set one (`chat_template` in Axolotl), or use a model that has one."
            )
        from trl import apply_chat_template

        answers = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
        example: dict[str, Any] = {"prompt": messages, "chosen": answers[0], "rejected": answers[1]}
        if self.processor is not None:
            example = {k: parts(v, images if k == "prompt" else 0) for k, v in example.items()}
        tools = options.pop("tools", None)
        example["chat_template_kwargs"] = {**self._template_option, **options}
        rendered = apply_chat_template(example, self.processing_class, tools)
        return rendered["prompt"], rendered["chosen"], rendered["rejected"]

    def _check_template(self) -> None:
        """A template made for texts fails on the parts of a message, or writes them as Python does."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            text = self.processing_class.apply_chat_template(
                probe, tokenize=False, add_generation_prompt=True, chat_template=self._template
            )
        except TypeError:
            text = ""
        if "probe" not in text or "'text'" in text:
            raise ValueError(
                f"the chat template given to {type(self.processing_class).__name__} takes plain texts only, "
                "no messages with images: leave it out (`chat_template` in Axolotl), or take the model's own."
            )

    def _encode(self, text: str, plain: bool) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=plain)["input_ids"]
        bos = self.tokenizer.bos_token_id
        found: list[int] = ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids
        return found

    def _completion(self, prompt: str, response: str, plain: bool) -> list[int]:
        """Tokens of the response as they follow the prompt; alone, SentencePiece puts a space before it."""
        before, whole = self._encode(prompt, plain), self._encode(prompt + response, plain)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        found: list[int] = self.tokenizer(response, add_special_tokens=False)["input_ids"]
        return found

    def _without_end_tokens(self, text: str) -> str:
        """A plain response without the end-of-turn tokens that a prompt strategy wrote into it."""
        ends = tuple(self.tokenizer.all_special_tokens)
        while (stripped := text.rstrip()).endswith(ends):
            text = next(stripped.removesuffix(end) for end in ends if stripped.endswith(end))
        return text

    def _extra_tokens(self, images: Sequence[dict[str, Any]]) -> int:
        """How many tokens the images add to a prompt, which depends on their sizes alone."""
        from PIL import Image

        try:
            sizes = tuple(readable_size(image) for image in images)
        except UnreadableImage as error:
            raise RefusedRow("image", str(error)) from error
        if sizes not in self._image_tokens:
            text = image_prompt(self.processing_class, len(sizes))
            blank = [Image.new("RGB", size) for size in sizes]
            # Tensors, for some processors (Ovis 2's) give nothing else.
            expanded = self.processing_class(
                images=[blank], text=[text], return_tensors="pt", add_special_tokens=False
            )["input_ids"][0]
            self._image_tokens[sizes] = len(expanded) - len(self._encode(text, plain=False))
        return self._image_tokens[sizes]

    def _room(self, prompt_length: int, images: bool) -> int | None:
        if self.limit.max_length is None:
            return None
        room = self.limit.max_length - prompt_length
        if room <= 0:
            if self.limit.strategy == "raise":
                raise StopRun(self._too_long(1 - room))
            raise RefusedRow(
                "image_tokens" if images else "too_long",
                f"prompt and image tokens take {prompt_length} of {self.limit.max_length}",
            )
        return room

    def _too_long(self, tokens: int) -> str:
        return (
            f"a pair is {tokens} tokens longer than {self.limit.name} {self.limit.max_length}, image tokens "
            f"included: raise {self.limit.name}, or let long rows be dropped or truncated."
        )


def template_options(row: dict[str, Any]) -> dict[str, Any]:
    """What a row's columns `chat_template_kwargs` and `tools` give its chat template, as in TRL.

    Raises `RefusedRow` for other shapes: a dictionary, and a list of schemas or its JSON text.
    """
    options, tools = row.get("chat_template_kwargs") or {}, row.get("tools")
    if not isinstance(options, dict):
        raise RefusedRow("unread", f"chat_template_kwargs is no dictionary: {kind_of(options)}")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RefusedRow("unread", f"tools is a text that is no JSON: {error}") from error
    if not isinstance(tools, list | None):
        raise RefusedRow("unread", f"tools is no list of schemas: {kind_of(tools)}")
    return {**options, **({"tools": tools} if tools else {})}


def image_prompt(processor: Any, images: int, text: str = "a") -> str:
    """A rendered prompt with this many images, their tokens not expanded."""
    # Some processors (InstructBLIP's) keep no template of their own.
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
            chat_template=template,
        )
    )


def _annotations(
    row: dict[str, Any], text: str, side: str
) -> tuple[list[tuple[int, int]], list[float | None] | None]:
    """A response's sentences and their similarities, or None. Raises `RefusedRow` where they disagree."""
    spans = sentence_spans(row, text, side)
    return spans, checked_similarities(row.get(f"{side}_similarity"), len(spans), side)


def sentence_spans(row: dict[str, Any], text: str, side: str = "chosen") -> list[tuple[int, int]]:
    """The row's own sentences of a response, or those of the splitter where it has none."""
    given = row.get(f"{side}_sentences")
    if given:
        return checked_spans(given, text, side)
    return split_sentences(text, row.get("untrained_prefix") or 0)


def _image_token_ids(processor: Any, tokenizer: Any) -> list[int]:
    """Token ids that models replace by image features."""
    if processor is None:
        return []
    token = getattr(processor, "image_token", None)
    ids = [getattr(processor, "image_token_id", None)]
    ids.append(tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None)
    return [i for i in ids if isinstance(i, int)]
