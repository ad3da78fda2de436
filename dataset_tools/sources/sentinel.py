"""psp-dada/SENTINEL: two continuations of the same beginning of an answer, one true to the image, one not.

The beginning (`context`) stands before both answers. It is the same in both, so it says nothing about which
is better; its own sentences are weighted as any other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow
from dataset_tools.sources.base import Pair, Source, identifier, image_list, text


class Sentinel(Source):
    name = "sentinel"
    about = "psp-dada/SENTINEL (jsonl; images of Visual Genome from --image-root)"
    columns = ("question", "context", "y_win", "y_lose")
    license = "apache-2.0"
    repositories = ("psp-dada/SENTINEL",)
    url = "https://huggingface.co/datasets/psp-dada/SENTINEL"
    image_columns = ("image_path", "image", "image_id")
    citation = """@article{peng2025sentinel,
  title={Mitigating Object Hallucinations via Sentence-Level Early Intervention},
  author={Peng, Shangpin and Yang, Senqiao and Jiang, Li and Tian, Zhuotao},
  journal={arXiv preprint arXiv:2507.12455},
  year={2025}
}"""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        context = row["context"]
        if context is not None and not isinstance(context, str):
            raise BadRow(f"context is not a text but {type(context).__name__}")
        images = next((image_list(row[name]) for name in self.image_columns if row.get(name)), [])
        yield Pair(
            id=identifier(row, "id"),
            images=images,
            prompt=text(row, "question"),
            chosen=_joined(context, text(row, "y_win")),
            rejected=_joined(context, text(row, "y_lose")),
        )


def _joined(context: str | None, continuation: str) -> str:
    if not context or not context.strip():
        return continuation
    return context + ("" if context[-1:].isspace() or continuation[:1].isspace() else " ") + continuation
