"""Train a tiny Qwen2.5-VL for two steps as a user does, in the environment whose Python runs this.

    python -m tests.install.train llamafactory FOLDER

For environments made by README's install lines, `make test-install` runs it. Run it from a folder that
holds nothing of the tree but `tests`, so that the installed package is what trains. The recipe is what
`aspo recipes copy` writes; only model, data and size are replaced. Exits 1 with the end of the host's output
where it fails.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.recipes import catalog, hosts

BIN = Path(sys.executable).parent
RECIPE = "qwen2.5-vl-3b"
EXAMPLE = catalog.ROOT / "docs" / "examples" / "trl_aspo.py"


def command(host: str, folder: Path) -> tuple[list[str], Path]:
    """What the user types, with model and data made on the spot; and the folder in which its log will be."""
    catalog.built("qwen2_5_vl", folder / "models")
    if not (folder / "dataset").exists():
        catalog.write_dataset(folder / "dataset", sentences=(3, 4))
    output = folder / "output"
    if host == "trl":
        model, dataset = folder / "models" / "qwen2_5_vl", folder / "dataset"
        words = ["--model", model, "--dataset", dataset, "--output", output, "--max-steps", "2", "--cpu"]
        return [sys.executable, str(EXAMPLE), *map(str, words)], output
    path = folder / f"{RECIPE}.yaml"
    if not path.exists():
        copy = [BIN / "aspo", "recipes", "copy", f"{host}/{RECIPE}", str(folder)]
        subprocess.run(copy, check=True, cwd=folder)
    recipe = catalog.Recipe(path, host, yaml.safe_load(path.read_text()))
    words = hosts.command(recipe, catalog.sized_down(recipe, folder, output), folder)
    return words[: words.index("--launcher")] if "--launcher" in words else words, output


def trained(output: Path) -> list[dict[str, Any]]:
    """The log of two steps of ASPO that began with the policy as its own reference; else `AssertionError`."""
    steps = [entry for entry in hosts.history(output) if "loss" in entry]
    assert len(steps) == 2, steps
    assert abs(steps[0]["loss"] - math.log(2)) < 1e-3, steps
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in steps), steps
    assert 0 < steps[0]["aspo/weight_mean"] <= 1 and steps[0]["aspo/similarity_mean"] > 0.1, steps
    return steps


def main(host: str, folder: Path) -> int:
    words, output = command(host, folder)
    shutil.rmtree(output, ignore_errors=True)
    run = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    if run.returncode:
        print((run.stdout + run.stderr)[-4000:], file=sys.stderr)
        return 1
    losses = [entry["loss"] for entry in trained(output)]
    print(json.dumps({"host": host, "losses": losses}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
