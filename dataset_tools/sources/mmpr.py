"""OpenGVLab/MMPR: paths of one or several images, and texts with `<image>` markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class Mmpr(Source):
    name = "mmpr"
    about = "OpenGVLab/MMPR (jsonl; images from --image-root)"
    columns = ("image", "question", "chosen", "rejected")
    url = "https://huggingface.co/datasets/OpenGVLab/MMPR-v1.2"
    images = "optional"
    citation = """@article{wang2024mmpr,
  title={Enhancing the Reasoning Ability of Multimodal Large Language Models via Mixed Preference
    Optimization},
  author={Wang, Weiyun and Chen, Zhe and Wang, Wenhai and Cao, Yue and Liu, Yangzhou and Gao, Zhangwei and
    Zhu, Jinguo and Zhu, Xizhou and Lu, Lewei and Qiao, Yu and Dai, Jifeng},
  journal={arXiv preprint arXiv:2411.10442},
  year={2024}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        yield Pair(
            id=identifier(row, "id"),
            images=image_list(row["image"]),
            prompt=text(row, "question"),
            chosen=text(row, "chosen"),
            rejected=text(row, "rejected"),
        )
