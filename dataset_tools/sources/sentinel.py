"""psp-dada/SENTINEL: two continuations of the same beginning of an answer, one true to the image, one not.

The beginning (`context`) is given to the model and not trained, as in SENTINEL's own C-DPO. What its
published files hold is known from the scripts that write and read them (`get_llava_v15_data_pair.py` and
`get_llama_factory_data_pair.py` in `utils/` of its repository): for LLaVA-1.5 an object that names the pairs
of each picture of Visual Genome by its number, for other models LLaMA-Factory's alpaca form with `context`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.base import ImageValue, Pair, Source, identifier, image_list, text

ALPACA = ("instruction", "context", "chosen", "rejected")
VISUAL_GENOME = ("VG_100K", "VG_100K_2")


class Sentinel(Source):
    name = "sentinel"
    about = "psp-dada/SENTINEL (json, jsonl; images of Visual Genome from --image-root)"
    columns = ("question", "context", "y_win", "y_lose")
    license = "apache-2.0"
    repositories = ("psp-dada/SENTINEL",)
    url = "https://huggingface.co/datasets/psp-dada/SENTINEL"
    image_columns = ("images", "image", "image_path", "image_id", "key")
    image_folders = ("", *VISUAL_GENOME)
    citation = """@article{peng2025sentinel,
  title={Mitigating Object Hallucinations via Sentence-Level Early Intervention},
  author={Peng, Shangpin and Yang, Senqiao and Jiang, Li and Tian, Zhuotao},
  journal={arXiv preprint arXiv:2507.12455},
  year={2025}
}"""

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        # A `context` of other files in this form may be a part of the question.
        marked = set(ALPACA) <= set(columns) and str(columns["instruction"]).startswith("<image>")
        return super().matches(columns) or marked

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        return [] if set(ALPACA) <= set(columns) else super().missing(columns)

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        context = row["context"]
        if context is not None and not isinstance(context, str):
            raise BadRow(f"context is not a text but {type(context).__name__}")
        names = ("instruction", "chosen", "rejected") if "instruction" in row else ("question", *_ANSWERS)
        prompt, chosen, rejected = (text(row, name) for name in names)
        yield Pair(
            id=identifier(row, "id"),
            images=next((_pictures(row[name]) for name in self.image_columns if row.get(name)), []),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            context=context or "",
        )


_ANSWERS = ("y_win", "y_lose")


def _pictures(value: Any) -> list[ImageValue]:
    """The pictures of a row; of a path on the authors' machine what begins at a folder of Visual Genome."""
    return [_below_folder(image) for image in image_list(value)]


def _below_folder(image: ImageValue) -> ImageValue:
    parts = PurePosixPath(image).parts if isinstance(image, str) else ()
    place = next((place for place, part in enumerate(parts) if part in VISUAL_GENOME), None)
    return image if place is None else str(PurePosixPath(*parts[place:]))
