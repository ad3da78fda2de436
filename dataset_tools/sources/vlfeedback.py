"""MMInstruction/VLFeedback: rated completions of a prompt, paired as Silkie does or best against worst.

As published, a row names no image: it is `merged_images/{id}.jpg`, which the dataset's loading script says.
The ids of many rows repeat, so that their picture may be another row's; `convert` leaves all of them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources.base import ImageValue, Pair, Source, identifier, image_list, text
from dataset_tools.sources.pairing import pair_indices


class VlFeedback(Source):
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

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair | SkippedPair]:
        prompt = text(row, "prompt")
        images = self._images(row)
        answers = completions(row["completions"])
        if len(answers) < 2:
            raise BadRow(f"{len(answers)} completions, at least two are needed")
        scores = [self.score(answer) for answer in answers]
        name = identifier(row, "id")
        for choice in pair_indices(scores, self.options.pairs, self.options.min_margin):
            if isinstance(choice, str):
                yield SkippedPair(choice)
                continue
            best, worst = choice
            yield Pair(
                id=f"{name}-{best}-{worst}" if name else "",
                images=images,
                prompt=prompt,
                chosen=answers[best].get("response"),
                rejected=answers[worst].get("response"),
            )

    @staticmethod
    def score(answer: Mapping[str, Any]) -> float | None:
        """How good a completion is; None where that is not known."""
        return mean_rating(answer.get("annotations"))

    def _images(self, row: Mapping[str, Any]) -> list[ImageValue]:
        for column in self.image_columns:
            if column in row:
                return image_list(row[column])
        name = identifier(row, "id")
        return [f"merged_images/{name}.jpg"] if name else []


def completions(value: Any) -> list[Mapping[str, Any]]:
    """The completions as a list of objects, from a list of structs or a struct of lists."""
    if isinstance(value, Mapping):
        lengths = {len(items) for items in value.values() if isinstance(items, list)}
        if len(lengths) != 1 or not all(isinstance(items, list) for items in value.values()):
            raise BadRow("completions is an object whose lists differ in length")
        return [{key: items[index] for key, items in value.items()} for index in range(lengths.pop())]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BadRow("completions is null" if value is None else "completions is not a list of objects")
    return value


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
