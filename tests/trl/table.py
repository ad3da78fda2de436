"""The table of architectures: what TRL's DPO and ASPO train of each, built small and compared.

python -m tests.trl.table [NAME ...]     build every model (or these), compare, print; needs TRL
python -m tests.trl.table --write        put it into docs/trl.md as well
"""

from __future__ import annotations

import datetime
import logging
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.recipes.table import ROOT, replace_between
from tests.support import backbones

from . import host_dpo

BEGIN, END = "<!-- table of python -m tests.trl.table -->", "<!-- end of the table -->"


class Row(NamedTuple):
    architecture: str
    host: str
    trains: str
    equals_DPO: str
    shared_prefix: str
    seen: str


def row_of(name: str, folder: Path, host: str) -> Row:
    """One architecture: each kind of set that TRL's DPO trains, and whether ASPO has its numbers."""
    seen = datetime.date.today().isoformat()
    try:
        pair = host_dpo.Pair(backbones.build(name, folder / name), aspo_alpha=0.0)
    except Exception as error:  # whatever stops a trainer is what the table tells
        return Row(name, host, f"no: {type(error).__name__}", "", "", seen)
    outcomes = {kind: host_dpo.compare(pair, kind) for kind in host_dpo.SETS}
    trained = {kind: outcome for kind, outcome in outcomes.items() if not outcome.our_error}
    compared = {kind: outcome for kind, outcome in trained.items() if not outcome.host_error}
    unequal = [kind for kind, outcome in compared.items() if outcome.differences]
    missed = [kind for kind, o in outcomes.items() if o.our_error and not o.host_error]
    equal = "no: " + ", ".join(unequal + missed) if unequal or missed else "yes"
    shared = [kind for kind, outcome in trained.items() if outcome.shared]
    share = "no" if not shared else "yes" if len(shared) == len(trained) else ", ".join(shared)
    return Row(name, host, ", ".join(trained) or "no", equal, share, seen)


def markdown(rows: list[Row]) -> str:
    titles = [name.replace("_", " ") for name in Row._fields]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def rows_of(names: list[str], host: str, processes: int = 2) -> list[Row]:
    """Of each architecture, in that order. Forked, so that what a model needs is imported once."""
    import torch
    import trl

    import aspo_plugin.trl

    assert trl.DPOTrainer and aspo_plugin.trl.AspoTrainer  # both import when first looked at
    torch.set_num_threads(1)
    forked = multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(processes, mp_context=forked) as workers,
    ):
        places, hosts = [Path(folder)] * len(names), [host] * len(names)
        return list(workers.map(row_of, names, places, hosts))


def main(arguments: list[str]) -> int:
    """0 where every set that TRL's DPO trains has its numbers, else 1."""
    import transformers
    import trl

    sys.modules["fla"] = None  # type: ignore[assignment]  # kernels for GPUs alone
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    names = [name for name in arguments if not name.startswith("--")]
    names = names or [*backbones.VISION_LANGUAGE, *backbones.today()]
    rows = rows_of(names, f"TRL {trl.__version__}, Axolotl (transformers {transformers.__version__})")
    print(markdown(rows))
    if "--write" in arguments:
        replace_between(ROOT / "docs" / "trl.md", BEGIN, END, markdown(rows))
    return int(any(row.equals_DPO.startswith("no") for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
