"""`formatting: aspo` for every stage: the folders that `aspo-data` writes, images untouched."""

from __future__ import annotations

import copy
from typing import Any

from llamafactory.data.converter import DatasetConverter
from llamafactory.extras.constants import IMAGE_PLACEHOLDER


class AspoDatasetConverter(DatasetConverter):
    """One row of the schema in `dataset_tools/schema.py` to the host's `_prompt`, `_response`, `_images`, ...

    It adds `_chosen_sentences` (`[[start, end], ...]` or None) and `_chosen_similarity` (a float or None per
    sentence, or None), the same of the rejected response, and `_untrained_prefix`, which plain stages ignore.
    """

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        # Without what is null the host counts an invalid example, and ASPO lists a refused row.
        prompt = [{"role": turn["role"], "content": turn["content"]} for turn in example["prompt"] or []]
        if any(turn["content"] is None for turn in prompt):
            prompt = []
        system = prompt.pop(0)["content"] if prompt and prompt[0]["role"] == "system" else ""
        images = self._find_medias([_held(image) for image in example.get("images") or []])
        if images and prompt and not any(IMAGE_PLACEHOLDER in (turn["content"] or "") for turn in prompt):
            prompt[0]["content"] = IMAGE_PLACEHOLDER * len(images) + (prompt[0]["content"] or "")
        spans = {side: example.get(f"{side}_sentences") for side in ("chosen", "rejected")}
        return {
            "_prompt": prompt,
            "_response": [
                {"role": "assistant", "content": example[key][-1]["content"]}
                for key in ("chosen", "rejected")
                if example[key]
            ],
            "_system": system,
            "_tools": "",
            "_images": images,
            "_videos": self._find_medias(example.get("videos")),
            "_audios": self._find_medias(example.get("audios")),
            **{f"_{side}_sentences": _pairs(found) for side, found in spans.items()},
            **{f"_{side}_similarity": example.get(f"{side}_similarity") for side in spans},
            "_untrained_prefix": example.get("untrained_prefix"),
        }


def _pairs(spans: list[dict[str, int]] | None) -> list[list[int]] | None:
    return None if spans is None else [[span["start"], span["end"]] for span in spans]


def _held(image: Any) -> Any:
    """An image of a converted dataset, which holds its bytes: a path there may name any file of this machine.

    One without bytes is an empty image, which no row is trained with.
    """
    if isinstance(image, dict) and image.get("bytes") is None:
        return {"bytes": b"", "path": None}
    return image


def undecoded(dataset: Any) -> Any:
    """The dataset with images as stored (`{"bytes", "path"}`) instead of decoded pictures.

    `Dataset.map` would encode decoded pictures again: a JPEG loses detail, and every row costs a codec pass.
    """
    for name, feature in dict(dataset.features or {}).items():
        stored = _without_decoding(feature)
        if stored != feature:
            dataset = dataset.cast_column(name, stored)
    return dataset


def _without_decoding(feature: Any) -> Any:
    from datasets import Image

    if isinstance(feature, Image):
        return Image(decode=False)
    if isinstance(feature, dict):
        return {name: _without_decoding(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_without_decoding(inner) for inner in feature]
    if hasattr(feature, "feature"):
        feature = copy.copy(feature)
        feature.feature = _without_decoding(feature.feature)
    return feature
