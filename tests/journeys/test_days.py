"""The first day of a newcomer to each host: a raw set on the Hub, a scored mix, training, a look.

Every command is typed as the documentation does, in a terminal of 80 columns, against the stand-in Hub. What
the terminal showed and the pages as pictures are kept in `.artifacts/journeys`, or below ASPO_ARTIFACTS.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import backbones, data, samples
from tests.support.artifacts import ARTIFACTS
from tests.support.hub import StandInHub, apply_environment

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
KEPT = ARTIFACTS / "journeys"
VLFEEDBACK, RLAIF_V = "MMInstruction/VLFeedback", "openbmb/RLAIF-V-Dataset"


def raw_vlfeedback(folder: Path) -> None:
    """As published: lines of rated completions, and a zip of images named after the rows."""
    rows = data.rows(10, 7, sentences=(2, 4))
    lines = []
    with zipfile.ZipFile(folder / "merged_images.zip", "w") as archive:
        for number, row in enumerate(rows):
            archive.writestr(f"merged_images/row{number}.jpg", row["images"][0]["bytes"])
            answers = [(row["chosen"], "5"), (row["rejected"], "2")]
            lines.append(
                {
                    "id": f"row{number}",
                    "prompt": row["prompt"][0]["content"].replace("<image>", "").strip(),
                    "models": ["one", "two"],
                    "completions": [
                        {
                            "model": "tiny",
                            "response": answer[0]["content"],
                            "annotations": {
                                name: {"Rating": rating, "Rationale": "so"}
                                for name in ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
                            },
                        }
                        for answer, rating in answers
                    ],
                }
            )
    (folder / "vlfeedback_80k.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Terminal:
    """Commands in a terminal of 80 columns; all that it showed is kept in one file."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
        KEPT.mkdir(parents=True, exist_ok=True)
        self.file = KEPT / f"{name}.txt"
        self.file.write_text("")

    def run(self, *command: str, code: int = 0) -> str:
        """What the command showed, without the codes that colour and rewrite it."""
        began = time.monotonic()
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # what Linux says where the other side is closed
                    raise
                break
            if not part:
                break
            shown += part
        os.close(master)
        ended = process.wait()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace")).replace("\r\n", "\n")
        with self.file.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{text}\n({time.monotonic() - began:.0f} s)\n\n")
        assert ended == code, text[-4000:]
        return text


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    """With raw VLFeedback and RLAIF-V, as their repositories hold them."""
    vlfeedback, rlaif = tmp_path_factory.mktemp("raw-vlfeedback"), tmp_path_factory.mktemp("raw-rlaif")
    raw_vlfeedback(vlfeedback)
    data.write_rlaif_v_parquet(rlaif, data.rows(6, 8, sentences=(2, 4)))
    with StandInHub() as server:
        server.publish(VLFEEDBACK, vlfeedback)
        server.publish(RLAIF_V, rlaif)
        yield server


@pytest.fixture(scope="module")
def morning(hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """Two raw sets become one mix, scored, counted, checked and shown: `mix`, in the folder of the day."""
    bin_dir = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    host = "llamafactory" if find_spec("llamafactory") else "axolotl"
    folder = tmp_path_factory.mktemp("day")
    terminal = Terminal(f"{host}-morning", folder, apply_environment(hub, environment))
    clip = backbones.build("clip", tmp_path_factory.mktemp("clip"))
    sources = {
        "vlfeedback": {"source": VLFEEDBACK, "workers": 1, "share": 0.6},
        "rlaif": {"source": RLAIF_V, "workers": 1, "share": 0.4},
    }
    plan = {"out": "mix", "sources": sources, "score": {"model": str(clip)}}
    (folder / "set.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    shown = terminal.run("aspo", "data", "make", "set.yaml")
    for step in ("convert", "score", "stats", "validate", "preview"):
        assert f"vlfeedback: {step}" in shown and f"rlaif: {step}" in shown
    assert "dataset: vlfeedback,rlaif" in shown and "Traceback" not in shown
    assert shown.count("next: ") == 1 and "next: put these lines into a recipe" in shown
    assert "every step of set.yaml is done" in terminal.run("aspo", "data", "make", "set.yaml")
    pictured(folder / "mix" / "vlfeedback.html", f"{host}-preview")
    return terminal


@pytest.fixture
def terminal(morning: Terminal, request: pytest.FixtureRequest) -> Terminal:
    """A new one in the folder of the day."""
    return Terminal(request.node.name.removeprefix("test_"), morning.folder, morning.environment)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is trained."""
    return backbones.build("llava", tmp_path_factory.mktemp("llava"))


def pictured(page: Path, name: str) -> None:
    """A page as Chromium shows it, where there is one."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return
    picture = KEPT / f"{name}.png"
    picture.unlink(missing_ok=True)
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    subprocess.run(
        [chromium, *flags.split(), "--window-size=1400,1000", f"--user-data-dir={page.parent / 'profile'}",
         f"--screenshot={picture}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert picture.stat().st_size > 5000


def looked_into(terminal: Terminal, run: str, dataset: str, rows: int) -> None:
    """The evening: what the run made of the sentences, and the samples that it kept."""
    kept = samples.read(terminal.folder / run)
    assert kept
    shown = terminal.run("aspo", "inspect", run, dataset, "--html", "inspect.html")
    assert f"inspect.html: {rows} pairs" in shown and "Traceback" not in shown
    page = (terminal.folder / "inspect.html").read_text()
    found = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert len(found["rows"]) == rows
    assert {part["name"] for row in found["rows"] for part in row["parts"]} == {
        "before training",
        "after training",
    }
    pictured(terminal.folder / "inspect.html", f"{terminal.file.stem}-inspect")
    shown = terminal.run("aspo", "inspect", run, "--html", "samples.html")
    assert f"samples.html: {len(samples.pairs(kept))} pairs" in shown
    pictured(terminal.folder / "samples.html", f"{terminal.file.stem}-samples")


def begins(shown: str) -> None:
    """The run says once what it trains on."""
    line = " ".join(shown.split())
    assert line.count("ASPO: alpha 0.5, normalization weight; similarities by") == 1
    assert "0 rows refused." in line


@pytest.mark.skipif(not find_spec("llamafactory"), reason="another host's environment")
def test_llamafactory(terminal: Terminal, model: Path) -> None:
    terminal.run("aspo", "recipes", "copy", "llamafactory/llava-1.5-7b", "recipe.yaml")
    changes: dict[str, Any] = {
        "model_name_or_path": model, "dataset_dir": "mix", "dataset": "vlfeedback,rlaif",
        "output_dir": "out", "bf16": "false", "lora_rank": 4, "lora_alpha": 8, "max_steps": 3,
        "logging_steps": 1, "learning_rate": 0.01, "gradient_accumulation_steps": 1,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0, "aspo_log_samples": 2, "plot_loss": "false", "warmup_ratio": 0,
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in changes.items()]
    begins(terminal.run("llamafactory-cli", "train", "recipe.yaml", *words))
    looked_into(terminal, "out", "mix/vlfeedback", 10)


@pytest.mark.skipif(not find_spec("axolotl"), reason="another host's environment")
def test_axolotl(terminal: Terminal, model: Path) -> None:
    terminal.run("aspo", "recipes", "copy", "axolotl/llava-1.5-7b", "recipe.yaml")
    recipe = yaml.safe_load((terminal.folder / "recipe.yaml").read_text())
    recipe |= {
        "base_model": str(model), "datasets": [{"path": "mix/vlfeedback"}, {"path": "mix/rlaif"}],
        "output_dir": "out-axolotl", "bf16": False, "tf32": False, "lora_r": 4, "lora_alpha": 8,
        "max_steps": 3, "logging_steps": 1, "learning_rate": 0.01, "gradient_accumulation_steps": 1,
        "dataset_num_proc": 1, "dataloader_num_workers": 0,
        "aspo": {"alpha": 0.5, "normalization": "weight", "log_samples": 2},
        "gradient_checkpointing": False,
    }  # fmt: skip
    del recipe["gradient_checkpointing_kwargs"]
    (terminal.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    begins(terminal.run("axolotl", "train", "recipe.yaml"))
    looked_into(terminal, "out-axolotl", "mix/vlfeedback", 10)


SCRIPT = """
from datasets import concatenate_datasets, load_dataset
from peft import LoraConfig
from aspo_plugin.trl import AspoConfig, AspoTrainer

parts = [load_dataset(f"mix/{name}", split="train") for name in ("vlfeedback", "rlaif")]
args = AspoConfig(
    "out-trl", aspo_alpha=0.5, aspo_log_samples=2, per_device_train_batch_size=2, max_steps=3,
    logging_steps=1, learning_rate=0.01, bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False,
)
peft = LoraConfig(r=4, target_modules=r".*language_model.*\\.(q|v)_proj")
trainer = AspoTrainer(MODEL, args=args, train_dataset=concatenate_datasets(parts), peft_config=peft)
trainer.train()
trainer.save_model()
"""


@pytest.mark.skipif(not find_spec("axolotl"), reason="another host's environment")
def test_trl(terminal: Terminal, model: Path) -> None:
    (terminal.folder / "train.py").write_text(SCRIPT.replace("MODEL", repr(str(model))))
    shown = " ".join(terminal.run("python", "train.py").split())
    assert shown.count("ASPO: alpha 0.5, normalization weight; similarities of the dataset") == 1
    looked_into(terminal, "out-trl", "mix/rlaif", 6)
