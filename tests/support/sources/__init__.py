"""A small fixture of each source dataset, in its exact layout and with its known defects.

Each builder writes files below a folder and returns a `Fixture`: what must come out, what must be refused
or left out, which files must not be read. All texts and pictures are made here.
"""

from __future__ import annotations

from tests.support.sources.base import Expected, Fixture, bomb, jpeg, png, user
from tests.support.sources.hosts import (
    axolotl_chat_template,
    json_columns,
    llamafactory,
    llamafactory_alpaca,
    ms_swift,
    ms_swift_query,
    saved_to_disk,
    trl,
    trl_implicit,
    whole_conversations,
)
from tests.support.sources.openbmb import rlaif_v, rlhf_v
from tests.support.sources.others import bpo, jsonl, llava_preference, packed_lines, povid, seva, table
from tests.support.sources.published import (
    mm_rlhf,
    mmpr,
    mmpr_published,
    omnialign,
    sentinel,
    sentinel_alpaca,
    sentinel_lines,
    vl_rewardbench,
    wildvision,
)
from tests.support.sources.vlfeedback import vlfeedback, vlfeedback_parquet

BUILDERS = {
    "rlaif-v": rlaif_v,
    "rlhf-v": rlhf_v,
    "vlfeedback": vlfeedback,
    "vlfeedback-parquet": vlfeedback_parquet,
    "vlfeedback-lists": lambda folder: vlfeedback_parquet(folder, as_lists=True),
    "llamafactory": llamafactory,
    "llamafactory-alpaca": llamafactory_alpaca,
    "trl": trl,
    "trl-implicit": trl_implicit,
    "povid": povid,
    "seva": seva,
    "bpo": bpo,
    "mmpr": mmpr,
    "llava-preference": llava_preference,
    "jsonl": jsonl,
    "axolotl": axolotl_chat_template,
    "ms-swift": ms_swift,
    "ms-swift-query": ms_swift_query,
    "json-columns": json_columns,
    "whole-conversations": whole_conversations,
    "save-to-disk": saved_to_disk,
    "csv": table,
    "jsonl-gz": packed_lines,
    "mmpr-published": mmpr_published,
    "mm-rlhf": mm_rlhf,
    "omnialign-v-dpo": omnialign,
    "vl-rewardbench": vl_rewardbench,
    "wildvision": wildvision,
    "sentinel": sentinel,
    "sentinel-alpaca": sentinel_alpaca,
    "sentinel-lines": sentinel_lines,
}

__all__ = [
    "BUILDERS",
    "Expected",
    "Fixture",
    "bomb",
    "jpeg",
    "mmpr_published",
    "jsonl",
    "png",
    "rlaif_v",
    "trl",
    "user",
    "vlfeedback",
    "vlfeedback_parquet",
]
