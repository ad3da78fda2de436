"""Tokenizes preference pairs as the host does, and gives every trained chosen token a sentence."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafactory.data.mm_plugin import BasePlugin
from llamafactory.data.processor.pairwise import PairwiseDatasetProcessor
from llamafactory.data.processor.processor_utils import infer_seqlen
from llamafactory.data.template import ReasoningTemplate
from llamafactory.extras import logging
from llamafactory.extras.constants import (
    AUDIO_PLACEHOLDER,
    IGNORE_INDEX,
    IMAGE_PLACEHOLDER,
    VIDEO_PLACEHOLDER,
)

from aspo_plugin import __version__
from aspo_plugin.alignment.sentence_ids import AlignmentError, sentence_ids, untrained_tokens
from aspo_plugin.llamafactory.upright import upright
from aspo_plugin.method.sentence_sums import SHARED
from aspo_plugin.training.image_check import UnreadableImage, readable_size
from aspo_plugin.training.refusals import (
    RefusedRow,
    StopRun,
    checked_prefix,
    checked_similarities,
    checked_spans,
    read_row,
)
from aspo_plugin.training.refused_rows import refused_row
from dataset_tools.sentences import split_sentences

logger = logging.get_logger("llamafactory.aspo")

MARKERS = {"images": IMAGE_PLACEHOLDER, "videos": VIDEO_PLACEHOLDER, "audios": AUDIO_PLACEHOLDER}
_MEDIA_TOKENS = (
    "image_token",
    "video_token",
    "audio_token",
    "image_break_token",
    "image_end_token",
    "boi_token",
    "eoi_token",
    "fake_image_token",
)


def carried(text: str, spans: Sequence[tuple[int, int]], trained: str) -> list[tuple[int, int, int]]:
    """Spans of `text` as (sentence, start, end) in `trained`, which is `text` without its beginning.

    A sentence wholly in what was removed is left out. Raises `AlignmentError` for any other rewriting.
    """
    if not text.endswith(trained):
        raise AlignmentError("the template changed the response beyond removing its beginning")
    removed = len(text) - len(trained)
    return [(i, max(a - removed, 0), b - removed) for i, (a, b) in enumerate(spans) if b > removed]


@dataclass
class SentencePairProcessor(PairwiseDatasetProcessor):
    """The host's pairwise processor, with `chosen_sentence_ids`, `chosen_similarity` and `refused` columns.

    `chosen_sentence_ids` has one entry per entry of `chosen_input_ids`: the sentence of a response token,
    `SHARED` for template tokens before both responses, -1 for the prompt and for an untrained prefix, whose
    labels are ignored as the prompt's are. `refused` is None, or what is written of the row, with a code of
    `refusals.REASONS`.
    """

    # Part of the fingerprint under which `datasets` keeps the result; bump when a row's columns change.
    version: str = f"{__version__}/5"
    weight_rejected: bool = False

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = []
        for i in range(len(examples["_prompt"])):
            example = {name: values[i] for name, values in examples.items()}
            row = read_row(self._row, example)
            if isinstance(row, RefusedRow):
                row = {**EMPTY_ROW, **EMPTY_REJECTED, "refused": refused(example, row)}
            rows.append(row)
        names = [*EMPTY_ROW, *(EMPTY_REJECTED if self.weight_rejected else ())]
        return {name: [row[name] for row in rows] for name in names}

    def _row(self, example: dict[str, Any]) -> dict[str, Any]:
        if example["_fault"]:
            raise RefusedRow("unread", example["_fault"])
        prompt, response = example["_prompt"], example["_response"]
        contents = [turn["content"] for turn in (*prompt, *response)]
        if len(prompt) % 2 != 1 or len(response) < 2 or any(content is None for content in contents):
            raise RefusedRow("turns")
        if not all(turn["content"].strip() for turn in response):
            raise RefusedRow("empty")
        media = {kind: example[f"_{kind}"] or [] for kind in MARKERS}
        for turn in response[:2]:
            self._check_markers((*prompt, turn), media)
        for image in media["images"]:
            try:
                readable_size(image)
            except UnreadableImage as error:
                raise RefusedRow("image", str(error)) from error
        for kind in ("videos", "audios"):
            for file in flattened(media[kind]):
                _check_file(file)
        prompt_ids, chosen_ids, rejected_ids = self._whole(example)
        target = max(len(chosen_ids), len(rejected_ids))
        source_len, target_len = infer_seqlen(len(prompt_ids), target, self.data_args.cutoff_len)
        if source_len < 1 or target_len < 1:
            raise RefusedRow("too_long", _length(prompt_ids, target))
        if any(media.values()) and self._cuts_media(prompt_ids, source_len):
            only_images = not media["videos"] and not media["audios"]
            raise RefusedRow("image_tokens" if only_images else "media_tokens", _length(prompt_ids, target))
        sentences = self._sentences(example, 0, chosen_ids, rejected_ids, source_len, target_len)
        if self.weight_rejected:
            sentences |= self._sentences(example, 1, rejected_ids, chosen_ids, source_len, target_len)

        prompt_ids, chosen_ids, rejected_ids = (
            prompt_ids[:source_len],
            chosen_ids[:target_len],
            rejected_ids[:target_len],
        )
        given = untrained_tokens(sentences["chosen_sentence_ids"])
        ignored = [IGNORE_INDEX] * given
        given -= source_len  # those of a response
        return {
            "chosen_input_ids": prompt_ids + chosen_ids,
            "chosen_attention_mask": [1] * (source_len + len(chosen_ids)),
            "chosen_labels": ignored + chosen_ids[given:],
            "rejected_input_ids": prompt_ids + rejected_ids,
            "rejected_attention_mask": [1] * (source_len + len(rejected_ids)),
            "rejected_labels": ignored + rejected_ids[given:],
            "images": example["_images"],
            "videos": example["_videos"],
            "audios": example["_audios"],
            **sentences,
            "refused": None,
        }

    def _whole(self, example: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
        """Token ids of prompt, chosen and rejected by the host's own encoding, before the length limit."""
        whole = copy.copy(self)
        whole.template = upright(self.template)
        whole.data_args = copy.copy(self.data_args)
        whole.data_args.cutoff_len = sys.maxsize
        medias = [example[f"_{kind}"] or [] for kind in MARKERS]
        given = (example["_prompt"], example["_response"], example["_system"], example["_tools"])
        try:
            chosen, chosen_labels, rejected, _ = PairwiseDatasetProcessor._encode_data_example(
                whole, *given, *medias
            )
        except ImportError as error:  # no row's fault
            if not medias[1] and not medias[2]:
                raise
            raise StopRun(
                f"videos and sounds cannot be read in this environment: {error} torchaudio 2.9 and "
                "later need `pip install torchcodec` and FFmpeg's libraries."
            ) from error
        except Exception as error:
            # The host decodes videos and sounds here, and each decoder has its own errors.
            if not medias[1] and not medias[2]:
                raise
            raise RefusedRow("media", f"{type(error).__name__}: {error}") from error
        length = next((i for i, label in enumerate(chosen_labels) if label != IGNORE_INDEX), len(chosen))
        return chosen[:length], chosen[length:], rejected[length:]

    def _check_markers(self, turns: Sequence[dict[str, str]], media: dict[str, list[Any]]) -> None:
        plugin = self.template.mm_plugin
        for kind, marker in MARKERS.items():
            markers = sum(turn["content"].count(marker) for turn in turns)
            if markers == len(media[kind]):
                continue
            # A template without media leaves `<video>` and `<audio>` in a text alone.
            if kind == "images" or media[kind] or type(plugin) is not BasePlugin:
                raise RefusedRow("markers", f"{markers} {marker} markers, {len(media[kind])} {kind}")

    def _cuts_media(self, prompt_ids: list[int], length: int) -> bool:
        if length >= len(prompt_ids):
            return False
        parts = (self.template.mm_plugin, self.processor)
        names = {getattr(part, name, None) for part in parts for name in _MEDIA_TOKENS}
        ids = {self.tokenizer.convert_tokens_to_ids(name) for name in names if isinstance(name, str)}
        ids |= {getattr(self.processor, "image_token_id", None)}
        ids -= {None, self.tokenizer.unk_token_id}
        # A model whose media tokens we cannot name: assume that the cut hits them.
        return not ids & set(prompt_ids) or bool(ids & set(prompt_ids[length:]))

    def _sentences(
        self,
        example: dict[str, Any],
        which: int,
        token_ids: list[int],
        other_ids: list[int],
        source_len: int,
        target_len: int,
    ) -> dict[str, Any]:
        """`*_sentence_ids` and `*_similarity` (NaN: unknown) of the chosen (0) or rejected (1) response."""
        side = ("chosen", "rejected")[which]
        text, spans = example["_response"][which]["content"], example[f"_{side}_sentences"]
        texts = [turn["content"] for turn in example["_response"][:2]]
        untrained = checked_prefix(example["_untrained_prefix"], *texts)
        if not spans:
            spans = [list(span) for span in split_sentences(text, untrained)]
        spans = checked_spans(spans, text, side)
        similarity = checked_similarities(example[f"_{side}_similarity"], len(spans), side)
        if similarity is None:
            similarity = [None] * len(spans)
        trained = text
        if isinstance(self.template, ReasoningTemplate) and self.template.enable_thinking is False:
            trained = self.template.remove_thought(text)
        try:
            kept = carried(text, spans, trained)
            spans_kept = [(a, b) for _, a, b in kept]
            untrained = max(untrained - (len(text) - len(trained)), 0)
            ids = sentence_ids(self.tokenizer, token_ids, trained, spans_kept, other_ids, untrained)
            ids = ids[:target_len]
        except AlignmentError as error:
            raise RefusedRow("rewritten", str(error)) from error
        if max(ids) < 0:
            raise RefusedRow("too_long", f"{target_len} tokens hold no text of the {side} response")
        values = [similarity[i] for i, _, _ in kept][: max(ids) + 1]
        return {
            f"{side}_sentence_ids": [-1] * source_len + ids,
            f"{side}_similarity": [math.nan if value is None else float(value) for value in values],
        }

    def print_data_example(self, example: dict[str, Any]) -> None:
        super().print_data_example(example)
        labels = [label for label in example["chosen_labels"] if label != IGNORE_INDEX]
        ids = [i for i in example["chosen_sentence_ids"] if i != -1]
        print("chosen_sentences:")
        for sentence in dict.fromkeys(ids):
            tokens = [label for label, i in zip(labels, ids, strict=True) if i == sentence]
            name = "shared" if sentence == SHARED else sentence
            print(f"  {name}: {self.tokenizer.decode(tokens)!r}")


EMPTY_ROW: dict[str, Any] = {
    "chosen_input_ids": [],
    "chosen_attention_mask": [],
    "chosen_labels": [],
    "rejected_input_ids": [],
    "rejected_attention_mask": [],
    "rejected_labels": [],
    "images": None,
    "videos": None,
    "audios": None,
    "chosen_sentence_ids": [],
    "chosen_similarity": [],
    "refused": None,
}


EMPTY_REJECTED: dict[str, Any] = {"rejected_sentence_ids": [], "rejected_similarity": []}


def _length(prompt_ids: list[int], target: int) -> str:
    return f"the prompt has {len(prompt_ids)} tokens, its longer response {target}"


def refused(example: dict[str, Any], refusal: RefusedRow) -> dict[str, Any]:
    """What tells a reader which row was refused, and why."""
    origin, response = example["_origin"], example["_response"]
    texts = (example["_prompt"], response[:1])
    return refused_row(refusal, origin["dataset"], origin["row"], origin["id"], *texts)


def flattened(items: Any) -> Iterator[Any]:
    """The items of lists in lists: a video may be the list of its frames."""
    for item in items:
        yield from flattened(item) if isinstance(item, list | tuple) else (item,)


def _check_file(file: Any) -> None:
    """Raise `RefusedRow` for a path of a video or a sound that is a pipe or a device: its reader would wait
    for ever."""
    if isinstance(file, str) and Path(file).exists() and not Path(file).is_file():
        raise RefusedRow("media", f"{file} is not a regular file")
