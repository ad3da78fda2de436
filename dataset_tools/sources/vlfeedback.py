"""MMInstruction/VLFeedback: rated completions of a prompt, paired as Silkie does or best against worst.

As published, a row names no image: it is `merged_images/{id}.jpg`, which the dataset's loading script says.
The ids of many rows repeat, so that their picture may be another row's; `convert` leaves all of them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dataset_tools.sources.base import ImageValue, identifier, image_list
from dataset_tools.sources.pairing import Rated


class VlFeedback(Rated):
    name = "vlfeedback"
    about = "MMInstruction/VLFeedback (jsonl + zip) and its parquet forms"
    columns = ("prompt", "completions")
    url = "https://huggingface.co/datasets/MMInstruction/VLFeedback"
    repositories = ("MMInstruction/VLFeedback", "davanstrien/VLFeedback", "Zhihui/VLFeedback")
    published = ("vlfeedback_80k.jsonl",)
    repeats_images = True
    pictures_by = "id"
    image_columns = ("image", "img_path")
    citation = """@article{li2023silkie,
  title={Silkie: Preference Distillation for Large Visual Language Models},
  author={Li, Lei and Xie, Zhihui and Li, Mukai and Chen, Shunian and Wang, Peiyi and Chen, Liang and
    Yang, Yazheng and Wang, Benyou and Kong, Lingpeng},
  journal={arXiv preprint arXiv:2312.10665},
  year={2023}
}"""

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        return super().matches(columns) and bool({"img_path", "image", "id"} & set(columns))

    @staticmethod
    def score(answer: Mapping[str, Any]) -> float | None:
        return mean_rating(answer.get("annotations"))

    def pictures(self, row: Mapping[str, Any]) -> list[ImageValue]:
        for column in self.image_columns:
            if column in row:
                return image_list(row[column])
        name = identifier(row, "id")
        return [f"merged_images/{name}.jpg"] if name else []


def mean_rating(annotations: Any) -> float | None:
    """The mean rating over all aspects; None where one is missing or not a number ("N/A", say)."""
    if not isinstance(annotations, Mapping) or not annotations:
        return None
    ratings = []
    for aspect in annotations.values():
        rating = aspect.get("Rating") if isinstance(aspect, Mapping) else None
        try:
            ratings.append(float(rating))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
    mean = sum(ratings) / len(ratings)
    return mean if math.isfinite(mean) else None
