"""From prepared rows to a batch: the only place where images are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from aspo_plugin.alignment.sentence_ids import untrained_tokens
from aspo_plugin.logprobs.pair_batch import IMAGES_ONCE, PLACEHOLDER, images_twice
from aspo_plugin.reference_cache.keys import KEYS, media_digest, row_keys
from dataset_tools.images.opening import open_image

from .processor_outputs import ProcessorOutputs, examine
from .rows import image_prompt


@dataclass
class AspoVisionCollator:
    """Batches of pairs, `[chosen_0..chosen_{B-1}, rejected_0..rejected_{B-1}]`, padded on the right.

    Takes rows of `prepare_dataset`, with and without images, and gives what `ResponseLogProbs` takes plus
    `completion_mask` `[2B, L]` (1 at trained tokens of a response), `sentence_ids` `[B, L]` (`SHARED` for
    template tokens before both responses, -1 outside what is trained of the chosen one) and `similarity`
    `[B, K]` (NaN where missing). A pair's images are processed once and are in the batch once
    (`IMAGES_ONCE`; `images_twice` gives what `model(**batch)` takes), unless the processor does something
    else with a row that comes twice: then it is given all rows, as TRL gives them. With `reference_keys` also
    `KEYS`: what a row's reference log-probs are cached under.
    """

    processing_class: Any
    reference_keys: bool = False
    weight_rejected: bool = False

    def __post_init__(self) -> None:
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        own = tokenizer.pad_token_id
        self.pad_token_id: int = own if own is not None else tokenizer.eos_token_id or 0
        self._blank: dict[str, Any] | None = None
        self._found: ProcessorOutputs | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        prompts: list[dict[str, Tensor]] = [{"input_ids": torch.tensor(row["prompt_ids"])} for row in rows]
        if self._response_type:  # a text-only prompt is read in both directions too
            prompts = [
                {**prompt, "token_type_ids": torch.zeros_like(prompt["input_ids"])} for prompt in prompts
            ]
        image_inputs: dict[str, Any] = {}
        with_images = [index for index, row in enumerate(rows) if row.get("images")]
        once = self.outputs.repeats if with_images else True
        if not with_images and self._is_processor:
            prompts = [
                {**dict.fromkeys(self.outputs.of_text, torch.zeros_like(prompt["input_ids"])), **prompt}
                for prompt in prompts
            ]
        if with_images:
            image_inputs = (
                self._process([rows[index] for index in with_images], with_images, prompts)
                if once
                else self._process_all(rows, prompts)
            )
            if "cross_attention_mask" in prompts[with_images[0]] and len(with_images) < len(rows):
                raise ValueError(
                    "this model (Mllama) lets every row of a batch with images attend to images, so a "
                    "text-only pair beside them would train on other log-probs: use sets with images only, "
                    "or sets without."
                )
        batch = _concatenate(prompts, rows, self.pad_token_id, self._response_type)
        for name, value in image_inputs.items():
            batch[name] = self._by_row(name, value, with_images, len(rows)) if once else value
        if image_inputs and once:
            batch[IMAGES_ONCE] = tuple(image_inputs)
        if self._blank is not None and not with_images:
            self._add_placeholder(batch, self._blank)
        if once and any(not isinstance(value, Tensor) for value in image_inputs.values()):
            batch = images_twice(batch)
        if self.reference_keys:
            digests = [
                media_digest(*(row.get(kind) for kind in ("images", "videos", "audios"))) for row in rows
            ]
            seen, trained = batch["attention_mask"], batch["completion_mask"]
            batch[KEYS] = row_keys(batch["input_ids"], seen, trained, digests * 2)
        length = batch["input_ids"].size(1)
        batch |= _sentences(rows, prompts, length)
        return batch | _sentences(rows, prompts, length, "rejected_") if self.weight_rejected else batch

    @property
    def outputs(self) -> ProcessorOutputs:
        """What the processor gives; found out when it is first needed."""
        if self._found is None:
            self._found = examine(self.processing_class)
        return self._found

    @property
    def _is_processor(self) -> bool:
        return getattr(self.processing_class, "tokenizer", None) is not None

    @property
    def _response_type(self) -> int:
        # PaliGemma attends in both directions where the type is 0, and causally where it is 1.
        return int("PaliGemma" in type(self.processing_class).__name__)

    def _process(
        self, rows: list[dict[str, Any]], places: list[int], prompts: list[dict[str, Tensor]]
    ) -> dict[str, Any]:
        """Run the processor on the rows with images; their expanded prompts replace the plain ones."""
        return self._run([row["images"] for row in rows], [row["prompt"] for row in rows], places, prompts)

    def _process_all(
        self, rows: Sequence[dict[str, Any]], prompts: list[dict[str, Tensor]]
    ) -> dict[str, Any]:
        """Run the processor on all rows, chosen and rejected, and leave its outputs as they are."""
        images, texts = [row.get("images") or [] for row in rows], [row["prompt"] for row in rows]
        return self._run(images * 2, texts * 2, range(len(rows)), prompts)

    def _run(
        self, images: list[Any], texts: list[str], places: Sequence[int], prompts: list[dict[str, Tensor]]
    ) -> dict[str, Any]:
        outputs = self.processing_class(
            images=[[open_image(image) for image in row] for row in images],
            text=texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        )
        outputs.pop("labels", None)  # PaliGemma's makes some; the loss here is not the model's
        mask = outputs["attention_mask"].bool()
        per_token = {name: outputs.pop(name) for name in self.outputs.per_token if name in outputs}
        per_token.pop("attention_mask")
        for index, place in enumerate(places):
            prompts[place] = {name: value[index][mask[index]] for name, value in per_token.items()}
        return dict(outputs)

    def use_placeholder(self) -> None:
        """From now on a batch without images has a blank one that nothing attends to (`PLACEHOLDER`).

        Where several processes train one model, all of them must run its vision tower, or none. Raises
        `ValueError` for a model whose other layers run on another path with images than without.
        """
        text = image_prompt(self.processing_class, 1)
        images = [[Image.new("RGB", (64, 64), "white")]]
        outputs = self.processing_class(
            images=images, text=[text], return_tensors="pt", add_special_tokens=False
        )
        if "cross_attention_mask" in outputs:
            raise ValueError(
                "this model (Mllama) runs other layers for a batch with images than for one without, which "
                "several processes cannot do at the same time: use sets with images only, or sets without."
            )
        self._blank = {name: value for name, value in outputs.items() if name != "labels"}

    def _add_placeholder(self, batch: dict[str, Any], blank: dict[str, Any]) -> None:
        """Put the blank image's tokens, unattended, behind the first row, and its tensors into the batch."""
        start = int(batch["attention_mask"][0].sum())
        end = start + blank["input_ids"].size(1)
        nothing = torch.zeros_like(batch["input_ids"])
        per_token = self.outputs.per_token
        for name in ("completion_mask", *per_token):
            if name not in batch and name not in blank:
                continue
            fill = self.pad_token_id if name == "input_ids" else 0
            column = batch.get(name, nothing)
            column = pad(column, (0, max(0, end - column.size(1))), value=fill)
            if name in blank and name != "attention_mask":
                column[0, start:end] = blank[name][0]
            batch[name] = column
        for name in blank.keys() - per_token:
            batch[name] = self._by_row(name, blank[name], [0], len(batch["input_ids"]))
        batch[PLACEHOLDER] = True

    def _by_row(self, name: str, value: Any, places: list[int], rows: int) -> Any:
        """An image tensor as the model takes it, where the rows at `places` have images."""
        if name not in self.outputs.by_row:
            return value
        return value.new_zeros((rows, *value.shape[1:])).index_copy(0, torch.tensor(places), value)


def _concatenate(
    prompts: list[dict[str, Tensor]], rows: Sequence[dict[str, Any]], pad_token_id: int, response_type: int
) -> dict[str, Any]:
    """Prompt and response, chosen rows first; the prompt's other per-token inputs go on over the response."""
    names = sorted({name for prompt in prompts for name in prompt} - {"input_ids"})
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("input_ids", "attention_mask", "completion_mask", *names)
    }
    for key in ("chosen_ids", "rejected_ids"):
        for prompt, row in zip(prompts, rows, strict=True):
            response = torch.tensor(row[key])
            before, after = len(prompt["input_ids"]), len(response)
            columns["input_ids"].append(torch.cat([prompt["input_ids"], response]))
            columns["attention_mask"].append(torch.ones(before + after, dtype=torch.long))
            first = before + untrained_tokens(row["sentence_ids"])
            columns["completion_mask"].append(torch.arange(before + after).ge(first).long())
            for name in names:
                columns[name].append(_extended(name, prompt, prompts, before, after, response_type))
    fill = {"input_ids": pad_token_id}
    return {
        name: pad_sequence(values, batch_first=True, padding_value=fill.get(name, 0))
        for name, values in columns.items()
    }


def _extended(
    name: str,
    prompt: dict[str, Tensor],
    prompts: list[dict[str, Tensor]],
    before: int,
    after: int,
    response_type: int,
) -> Tensor:
    value = prompt.get(name)
    if value is None:  # a row without images among rows with them
        like = next(other[name] for other in prompts if name in other)
        value = like.new_zeros((before, *like.shape[1:]))
    if name == "cross_attention_mask":  # the response sees the images that the end of the prompt sees
        return torch.cat([value, value[-1:].expand(after, *value.shape[1:])])
    return torch.cat([value, value.new_full((after,), response_type if name == "token_type_ids" else 0)])


def _sentences(
    rows: Sequence[dict[str, Any]], prompts: list[dict[str, Tensor]], length: int, side: str = ""
) -> dict[str, Tensor]:
    ids = torch.full((len(rows), length), -1)
    width = max(max(row[f"{side}sentence_ids"]) for row in rows) + 1
    similarity = torch.full((len(rows), width), torch.nan)
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        start = len(prompt["input_ids"])
        found = torch.tensor(row[f"{side}sentence_ids"])
        ids[index, start : start + len(found)] = found
        for sentence, value in enumerate(row[f"{side}similarity"] or []):
            if value is not None:
                similarity[index, sentence] = value
    return {f"{side}sentence_ids": ids, f"{side}similarity": similarity}
