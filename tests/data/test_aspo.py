"""The `aspo` command: its groups, help in every form, near names, recipes, and what doctor finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dataset_tools.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ASPO = (sys.executable, "-c", "from aspo_plugin.cli import main; main()")


def aspo(*arguments: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **settings}
    done = subprocess.run([*ASPO, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_in_every_form_names_every_command():
    for form in (("--help",), ("-h",), ("help",)):
        shown = aspo(*form).stdout
        assert all(
            f"│ {name} " in shown for name in ("data", "plan", "inspect", "recipes", "schema", "doctor")
        )
    shown = aspo("help", "data").stdout
    assert all(f"│ {name} " in shown for name in COMMANDS)
    assert "Usage: aspo data stats" in aspo("help", "data", "stats").stdout
    assert aspo("--version").stdout.startswith("aspo ")


def test_a_misspelt_name_is_met_with_the_nearest():
    assert "Did you mean data?" in aspo("dat", code=2).stderr
    assert "Did you mean convert" in aspo("data", "confert", code=2).stderr
    assert "There are data, plan, inspect, recipes, schema, doctor." in aspo("xyz", code=2).stderr
    done = aspo("recipes", "copy", "llamafactory/llava-15-7b", "x.yaml", code=2)
    assert "llamafactory/llava-1.5-7b" in done.stderr and "Traceback" not in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom aspo_plugin.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'PIL', 'huggingface_hub', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["--help"], ["data", "--help"], ["plan", "--help"], ["recipes", "list"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
        )
        assert done.stdout.splitlines()[-1] == "[]", (arguments, done.stdout, done.stderr)


def test_names_are_completed():
    done = aspo(_ASPO_COMPLETE="complete_bash", COMP_WORDS="aspo da", COMP_CWORD="1")
    assert done.stdout.split() == ["data"]
    done = aspo(_ASPO_COMPLETE="complete_bash", COMP_WORDS="aspo data st", COMP_CWORD="2")
    assert done.stdout.split() == ["stats"]


def test_recipes_are_listed_and_copied_with_what_they_name(tmp_path):
    listed = json.loads(aspo("recipes", "list", "--json").stdout)
    folders = [ROOT / "recipes" / host for host in ("llamafactory", "axolotl")]
    there = {f"{folder.name}/{path.stem}" for folder in folders for path in folder.glob("*.yaml")}
    assert set(listed) == there
    target = tmp_path / "mine.yaml"
    aspo("recipes", "copy", "llamafactory/llava-1.5-7b-paper", str(target))
    text = target.read_text()
    keys = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert f"deepspeed: {tmp_path / 'zero3.json'}" in keys and "recipes/shared" not in "\n".join(keys)
    assert (tmp_path / "zero3.json").read_bytes() == (ROOT / "recipes/shared/zero3.json").read_bytes()
    assert f"llamafactory-cli train {target}" in text
    assert "exists" in aspo("recipes", "copy", "llamafactory/llava-1.5-7b-paper", str(target), code=2).stderr
    spaced = tmp_path / "my recipes" / "llava.yaml"
    said = aspo("recipes", "copy", "llamafactory/llava-1.5-7b", str(spaced)).stderr
    assert f"aspo plan '{spaced}', then llamafactory-cli train '{spaced}'" in said


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("shared/llamafactory/full-zero3", "zero3.json"),
        ("recipes/shared/llamafactory/full-fsdp2.args", "fsdp2.json"),
        ("shared/axolotl/high-rank-zero3", "zero3.json"),
    ],
)
def test_files_for_eight_gpus_are_copied_with_what_they_name(name, named, tmp_path):
    done = aspo("recipes", "copy", name, str(tmp_path))
    ending = ".args" if "llamafactory" in name else ".yaml"
    copied = tmp_path / f"{Path(name).name.removesuffix('.args')}{ending}"
    lines = [line for line in copied.read_text().splitlines() if not line.startswith("#")]
    assert str(tmp_path / named) in "\n".join(lines) and "recipes/shared" not in copied.read_text()
    assert (tmp_path / named).is_file() and f"--with {copied}" in " ".join(done.stderr.split())
    assert name.removeprefix("recipes/").removesuffix(".args") in aspo("recipes", "list").stdout


def test_doctor_tells_what_is_here():
    found = {item["about"]: item for item in json.loads(aspo("doctor", "--json").stdout)}
    assert found["dataset_tools"]["state"] == "ok" and "GiB free" in found["Hub cache"]["text"]
    offline = {item["about"] for item in json.loads(aspo("doctor", "--json", HF_HUB_OFFLINE="1").stdout)}
    assert "Hub" in offline


@pytest.mark.skipif(find_spec("trl") is not None, reason="a version of TRL is made up")
@pytest.mark.parametrize(
    ("installed", "state", "text"),
    [
        ("1.14.1", "ok", "1.14.1, tested"),
        ("1.99.0", "note", "1.99.0 is untested; tested: 1.9.0, 1.14.1, 1.16.0"),
        (
            "0.24.0",
            "broken",
            "0.24.0 is too old for aspo_plugin.trl, which needs 1.9.0; tested: 1.9.0, 1.14.1, ",
        ),
    ],
)
def test_doctor_knows_the_versions_of_trl(installed, state, text, tmp_path):
    folder = tmp_path / f"trl-{installed}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {installed}\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = aspo("doctor", "--json", code=int(state == "broken"), PYTHONPATH=path)
    [found] = [item for item in json.loads(done.stdout) if item["about"] == "TRL"]
    assert found["state"] == state and found["text"].startswith(text)


@pytest.mark.skipif(find_spec("llamafactory") is None, reason="the hook is LLaMA-Factory's")
def test_doctor_fails_where_the_hook_is_off():
    done = aspo("doctor", TORCH_DEVICE_BACKEND_AUTOLOAD="0", code=1)
    assert "unset TORCH_DEVICE_BACKEND_AUTOLOAD" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("dataset_tools.cli.group", "recipes list"),
        ("aspo_plugin.cli.recipes", "recipes list"),
        ("dataset_tools.installed", "doctor"),
        ("aspo_plugin.axolotl.json_schema", "schema axolotl"),
        ("aspo_plugin.training.files", "inspect here there"),
        ("aspo_plugin.plan.cli", "plan recipe.yaml"),
        ("aspo_plugin.plan.memory", "plan recipe.yaml"),
        ("dataset_tools.cli.stats", "data stats here"),
    ],
)
def test_ctrl_c_ends_every_command_with_130_and_no_traceback(module, command):
    code = (
        f"wanted = {module!r}\n"
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == wanted:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "from aspo_plugin.cli import main\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("host", ["llamafactory", "axolotl"])
def test_the_schema_needs_no_host(host):
    if find_spec(host):
        pytest.skip("the host is installed: its own suite has the whole schema")
    done = aspo("schema", host)
    keys = set(json.loads(done.stdout)["properties"])
    assert {"aspo_alpha", "stage"} <= keys if host == "llamafactory" else {"aspo", "rl"} <= keys
    assert "not installed here, so only the keys of ASPO are known" in done.stderr
