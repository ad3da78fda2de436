"""LLaVA-Human-Preference-10K: two outputs and which of them a person preferred.

`conversations` ends with the answer that the outputs replace, which LLaVA-RLHF's reward model overwrites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.base import Pair, Source, identifier, image_list, turns


class LlavaPreference(Source):
    name = "llava-preference"
    about = "LLaVA-Human-Preference-10K (json; images from --image-root)"
    columns = ("image", "conversations", "output_1", "output_2", "preference")
    license = "apache-2.0"
    repositories = ("zhiqings/LLaVA-Human-Preference-10K",)
    image_columns = ("image",)
    url = "https://huggingface.co/datasets/zhiqings/LLaVA-Human-Preference-10K"
    citation = """@article{sun2023llavarlhf,
  title={Aligning Large Multimodal Models with Factually Augmented RLHF},
  author={Sun, Zhiqing and Shen, Sheng and Cao, Shengcao and Liu, Haotian and Li, Chunyuan and
    Shen, Yikang and Gan, Chuang and Gui, Liang-Yan and Wang, Yu-Xiong and Yang, Yiming and
    Keutzer, Kurt and Darrell, Trevor},
  journal={arXiv preprint arXiv:2309.14525},
  year={2023}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        preferred = str(row["preference"]).strip()
        if preferred not in ("1", "2"):
            raise BadRow(f"preference is {row['preference']!r}, expected 1 or 2")
        outputs = [self._output(row, name) for name in ("output_1", "output_2")]
        chosen, rejected = outputs if preferred == "1" else outputs[::-1]
        prompt = turns(row["conversations"])
        if prompt[-1]["role"] == "assistant":
            prompt.pop()
        yield Pair(image_list(row["image"]), prompt, chosen, rejected, identifier(row, "id"))

    @staticmethod
    def _output(row: Mapping[str, Any], name: str) -> str:
        value = row[name]
        value = value.get("value") if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            raise BadRow(f"{name} has no text")
        return value
