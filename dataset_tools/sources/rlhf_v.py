"""openbmb/RLHF-V-Dataset: question, chosen and rejected are a JSON document inside one text column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class RlhfV(Source):
    name = "rlhf-v"
    about = "openbmb/RLHF-V-Dataset (parquet)"
    columns = ("image", "text", "origin_dataset")
    license = "cc-by-nc-4.0"
    repositories = ("openbmb/RLHF-V-Dataset", "HaoyeZhang/RLHF-V-Dataset", "llamafactory/RLHF-V")
    published = ("RLHF-V-Dataset*.parquet",)
    image_columns = ("image",)
    url = "https://huggingface.co/datasets/openbmb/RLHF-V-Dataset"
    citation = """@article{yu2023rlhfv,
  title={RLHF-V: Towards Trustworthy MLLMs via Behavior Alignment from Fine-grained Correctional Human
    Feedback},
  author={Yu, Tianyu and Yao, Yuan and Zhang, Haoye and He, Taiwen and Han, Yifeng and Cui, Ganqu and
    Hu, Jinyi and Liu, Zhiyuan and Zheng, Hai-Tao and Sun, Maosong and Chua, Tat-Seng},
  journal={arXiv preprint arXiv:2312.00849},
  year={2023}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        try:
            texts = json.loads(text(row, "text"))
        except ValueError as error:
            raise BadRow(f"text is not JSON: {error}") from None
        if not isinstance(texts, dict):
            raise BadRow("text is not a JSON object")
        yield Pair(
            id=identifier(row, "idx"),
            images=image_list(row["image"]),
            prompt=text(texts, "question"),
            chosen=text(texts, "chosen"),
            rejected=text(texts, "rejected"),
        )
