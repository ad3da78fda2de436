"""The commands in the table of sources on the page, run as they stand on each set as it is published."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dataset_tools.dataset.schema import iter_rows
from dataset_tools.sources import REGISTRY
from tests.support.hub import StandInHub, apply_environment
from tests.support.sources import BUILDERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
FIXTURES = {
    "openbmb/RLAIF-V-Dataset": "rlaif-v",
    "MMInstruction/VLFeedback": "vlfeedback",
    "bpo.json": "bpo",
    "openbmb/RLHF-V-Dataset": "rlhf-v",
    "OpenGVLab/MMPR-v1.2": "mmpr-published",
    "trl-lib/rlaif-v": "trl",
    "yifanzhang114/MM-RLHF": "mm-rlhf",
    "PhoenixZ/OmniAlign-V-DPO": "omnialign-v-dpo",
    "llamafactory/RLHF-V": "llamafactory",
    "rows.jsonl": "ms-swift",
    "MMInstruction/VL-RewardBench": "vl-rewardbench",
    "WildVision/wildvision-internal-data": "wildvision",
    "psp-dada/SENTINEL": "sentinel",
    "POVID.json": "povid",
    "pairs.json": "seva",
    "zhiqings/LLaVA-Human-Preference-10K": "llava-preference",
}
"""What each command of the table reads. The last row's columns are anybody's own."""
RUN = """
import json, os, sys
from typer.testing import CliRunner
from dataset_tools.cli import app
for place, command in json.load(sys.stdin):
    os.chdir(place)
    done = CliRunner().invoke(app, command)
    print(json.dumps([done.exit_code, done.output]), flush=True)
"""


def test_the_commands_of_the_page(tmp_path):
    table = PAGE.read_text().partition("| `--from` | Reads | Command |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[\w-]+`)? ?\|.*\| `(convert .*)` \|$", table, re.MULTILINE)
    assert {name.strip("`") for name, _ in rows if name} == {*REGISTRY}
    commands = [shlex.split(command) for _, command in rows]
    assert {command[1] for command in commands} == {*FIXTURES, "rows.csv"}
    made, jobs = [], []
    with StandInHub() as hub:
        for number, command in enumerate(commands):
            if command[1] not in FIXTURES:
                continue
            place = tmp_path / str(number)
            fixture = BUILDERS[FIXTURES[command[1]]](place)
            where = fixture.path if fixture.path.is_dir() else fixture.path.parent
            if "--image-root" in command:
                root = where / command[command.index("--image-root") + 1]
                root.parent.mkdir(exist_ok=True)
                made_as, moved = fixture.settings["image_roots"][0], tmp_path / f"root{number}"
                shutil.move(made_as, moved)
                shutil.move(moved, root)
            if "/" in command[1]:
                lies = tmp_path / f"published{number}"
                left = root.relative_to(where).parts[0] if "--image-root" in command else None
                shutil.copytree(where, lies, ignore=lambda folder, names, left=left: {left} & set(names))
                hub.publish(command[1], lies)
            else:
                fixture.path.rename(where / command[1])
            made.append((fixture, where / "OUT"))
            jobs.append((str(where), [*command, "--workers", "1", "--max-bad", "100%"]))
        environ = {**apply_environment(hub, dict(os.environ)), "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", RUN], input=json.dumps(jobs), env=environ, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (fixture, out), (code, said), (_, command) in zip(made, answers, jobs, strict=True):
        assert code == 0, f"{command}: {said}"
        expected = Counter((row.chosen, row.rejected, *row.images) for row in fixture.rows.values())
        found = Counter(
            (
                row["chosen"][0]["content"],
                row["rejected"][0]["content"],
                *(image["bytes"] for image in row["images"]),
            )
            for row in iter_rows(out)
        )
        assert found == expected, command
        assert said.count("not found") == 0 or any("not found" in why for why in fixture.bad.values())
