"""openbmb/RLAIF-V-Dataset: one row is one pair, texts as plain strings, the image embedded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class RlaifV(Source):
    name = "rlaif-v"
    about = "openbmb/RLAIF-V-Dataset (parquet)"
    columns = ("image", "question", "chosen", "rejected", "origin_dataset")
    license = "cc-by-nc-4.0"
    repositories = (
        "openbmb/RLAIF-V-Dataset",
        "HaoyeZhang/RLAIF-V-Dataset",
        "trl-lib/rlaif-v",
        "HuggingFaceH4/rlaif-v_formatted",
    )
    published = ("RLAIF-V-Dataset*.parquet",)
    image_columns = ("image",)
    url = "https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset"
    citation = """@article{yu2024rlaifv,
  title={RLAIF-V: Open-Source AI Feedback Leads to Super GPT-4V Trustworthiness},
  author={Yu, Tianyu and Zhang, Haoye and Yao, Yuan and Dang, Yunkai and Chen, Da and Lu, Xiaoman and
    Cui, Ganqu and He, Taiwen and Liu, Zhiyuan and Chua, Tat-Seng and Sun, Maosong},
  journal={arXiv preprint arXiv:2405.17220},
  year={2024}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        yield Pair(
            id=identifier(row, "idx"),
            images=image_list(row["image"]),
            prompt=text(row, "question"),
            chosen=text(row, "chosen"),
            rejected=text(row, "rejected"),
        )
