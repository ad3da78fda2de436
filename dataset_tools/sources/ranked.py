"""Several answers with ranks given by people: VL-RewardBench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources.base import Pair, Source, identifier, image_list, text
from dataset_tools.sources.pairing import pair_indices


class Ranked(Source):
    name = "vl-rewardbench"
    about = "MMInstruction/VL-RewardBench (parquet; --split test)"
    columns = ("query", "response", "human_ranking", "image")
    license = "mit"
    repositories = ("MMInstruction/VL-RewardBench", "Zhihui/Vl-RewardBench")
    url = "https://huggingface.co/datasets/MMInstruction/VL-RewardBench"
    image_columns = ("image",)
    citation = """@article{li2024vlrewardbench,
  title={VL-RewardBench: A Challenging Benchmark for Vision-Language Generative Reward Models},
  author={Li, Lei and Wei, Yuancheng and Xie, Zhihui and Yang, Xuqing and Song, Yifan and Wang, Peiyi and
    An, Chenxin and Liu, Tianyu and Li, Sujian and Lin, Bill Yuchen and Kong, Lingpeng and Liu, Qi},
  journal={arXiv preprint arXiv:2411.17451},
  year={2024}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair | SkippedPair]:
        answers, ranks = row["response"], row["human_ranking"]
        if not isinstance(answers, list) or not isinstance(ranks, list) or len(answers) != len(ranks):
            raise BadRow("response and human_ranking are not two lists of one length")
        # Rank 0 is the best.
        scores = [None if rank is None else -float(rank) for rank in ranks]
        name = identifier(row, "id")
        for choice in pair_indices(scores, self.options.pairs, 0):
            if isinstance(choice, str):
                yield SkippedPair(choice)
                continue
            best, worst = choice
            yield Pair(
                id=name if len(answers) == 2 or not name else f"{name}-{best}-{worst}",
                images=image_list(row["image"]),
                prompt=text(row, "query"),
                chosen=answers[best],
                rejected=answers[worst],
            )
