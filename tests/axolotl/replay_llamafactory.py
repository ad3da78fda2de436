"""Train LLaMA-Factory's `stage: aspo` on dumped batches; run in LLaMA-Factory's environment.

    python replay_llamafactory.py BATCHES SETTINGS

BATCHES is a folder of `<step>.safetensors`, SETTINGS a JSON file of LLaMA-Factory arguments. The datasets the
arguments name are loaded as ever, but each batch is replaced by the dumped one of its step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file

from aspo_plugin.llamafactory import collator, workflow


def main(batches: str, settings: str) -> None:
    files = iter(sorted(Path(batches).glob("*.safetensors")))

    class Replay(collator.SentencePairCollator):
        def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
            file = next(files, None)
            if file is None:  # the loader reads one batch ahead of the last step
                return super().__call__(features)
            batch = load_file(file)
            mask = batch.pop("completion_mask").bool()
            batch["labels"] = batch["input_ids"].masked_fill(~mask, -100)
            return batch

    workflow.SentencePairCollator = Replay
    run_exp(json.loads(Path(settings).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
