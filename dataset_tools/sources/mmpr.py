"""OpenGVLab/MMPR, v1 to v1.2: paths of one or several images, and texts with `<image>` markers.

The `meta.json` beside the annotations names the folder of each file's images (`convert.image_places`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class Mmpr(Source):
    name = "mmpr"
    about = "OpenGVLab/MMPR, v1.1, v1.2 (jsonl in a zip, images in a zip in parts, meta.json)"
    columns = ("question", "chosen", "rejected")
    license = "mit"
    repositories = ("OpenGVLab/MMPR", "OpenGVLab/MMPR-v1.1", "OpenGVLab/MMPR-v1.2")
    image_columns = ("image",)
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
            images=image_list(row.get("image")),
            prompt=text(row, "question"),
            chosen=text(row, "chosen"),
            rejected=text(row, "rejected"),
        )
