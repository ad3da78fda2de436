"""YiyangAiLab/POVID: two whole conversations, the second with an answer made worse. Images are COCO files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.base import Pair, Source, identifier, image_list, split_answer, turns


class Povid(Source):
    name = "povid"
    about = "YiyangAiLab/POVID (json; images from --image-root)"
    columns = ("image", "conversations", "rejected_conversations")
    license = "cc-by-4.0"
    repositories = ("YiyangAiLab/POVID_preference_data_for_VLLMs",)
    image_columns = ("image",)
    url = "https://huggingface.co/datasets/YiyangAiLab/POVID_preference_data_for_VLLMs"
    citation = """@article{zhou2024povid,
  title={Aligning Modalities in Vision Large Language Models via Preference Fine-tuning},
  author={Zhou, Yiyang and Cui, Chenhang and Rafailov, Rafael and Finn, Chelsea and Yao, Huaxiu},
  journal={arXiv preprint arXiv:2402.11411},
  year={2024}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        prompt, chosen = split_answer(turns(row["conversations"]))
        other, rejected = split_answer(turns(row["rejected_conversations"]))
        if [message["content"] for message in other] != [message["content"] for message in prompt]:
            raise BadRow("conversations and rejected_conversations differ before their last answer")
        yield Pair(image_list(row["image"]), prompt, chosen, rejected, identifier(row, "id"))
