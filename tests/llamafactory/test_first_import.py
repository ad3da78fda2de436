"""`stage: aspo` is there whichever module of the host a script imports first, torch last of all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Of the first, transformers imports torch half-way; of the second, the module itself that is adjusted; the
# third is ours, half-way when the host's are adjusted.
FIRST = ("llamafactory.hparams", "llamafactory.webui.control", "aspo_plugin.llamafactory.converter")
SCRIPT = """
import sys
assert "torch" not in sys.modules
import {first}
import llamafactory.hparams as hparams, llamafactory.webui.control as control
from llamafactory.hparams import parser
import llamafactory.webui.runner  # any module after it
from llamafactory.extras.constants import TRAINING_STAGES
from aspo_plugin.llamafactory import contract
known = parser.FinetuningArguments
assert hparams.FinetuningArguments is known is hparams.finetuning_args.FinetuningArguments
assert known(stage="aspo", aspo_alpha=0.7).is_aspo
assert TRAINING_STAGES["ASPO"] == "aspo" and "aspo" in control.STAGES_USE_PAIR_DATA
assert not contract.problems, contract.problems
"""


@pytest.mark.parametrize("first", FIRST)
def test_whatever_is_imported_first(first: str) -> None:
    pytest.importorskip("gradio")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "aspo-plugin" not in done.stderr
