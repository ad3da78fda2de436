"""BPO: completions with one score each, the right answer against what noise or a language model made of it.

The rows are VLFeedback's but for the score. Every combination of two with different scores is a pair, as in
BPO's own training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.pairing import Rated, completions


class Bpo(Rated):
    name = "bpo"
    about = "renjiepi/BPO (json; images from --image-root)"
    columns = ("prompt", "image", "completions")
    url = "https://huggingface.co/datasets/renjiepi/BPO"
    repositories = ("renjiepi/BPO",)
    repeats_images = True
    image_columns = ("image",)
    citation = """@article{pi2024strengthening,
  title={Strengthening Multimodal Large Language Model with Bootstrapped Preference Optimization},
  author={Pi, Renjie and Han, Tianyang and Xiong, Wei and Zhang, Jipeng and Liu, Runtao and Pan, Rui and
    Zhang, Tong},
  journal={arXiv preprint arXiv:2403.08730},
  year={2024}
}"""

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        if not super().matches(columns):
            return False
        try:
            return any("score" in answer for answer in completions(columns["completions"]))
        except BadRow:
            return False

    @staticmethod
    def score(answer: Mapping[str, Any]) -> float | None:
        try:
            value = float(answer.get("score"))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return value if math.isfinite(value) else None
