"""SeVa pairs: the answer to an image against the answer to its distorted copy. The column is `reject`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class Seva(Source):
    name = "seva"
    about = "SeVa pairs (json; images from --image-root)"
    columns = ("question", "chosen", "reject", "image_id")
    image_columns = ("image_id",)
    url = "https://github.com/Kevinz-code/SeVa"
    citation = """@article{zhu2024seva,
  title={Self-Supervised Visual Preference Alignment},
  author={Zhu, Ke and Zhao, Liang and Ge, Zheng and Zhang, Xiangyu},
  journal={arXiv preprint arXiv:2404.10501},
  year={2024}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        image = row["image_id"]
        yield Pair(
            id=identifier(row, "id"),
            # A bare number is a file name without its ending, which the image root completes.
            images=image_list(str(image) if isinstance(image, int) else image),
            prompt=text(row, "question"),
            chosen=text(row, "chosen"),
            rejected=text(row, "reject"),
        )
