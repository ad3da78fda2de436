"""The command line: exit codes, where output goes, messages, help of every command, foreign packages."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataset_tools.cli import COMMANDS, app, errors, output
from dataset_tools.errors import DataError, UsageError
from tests.support.sources import jsonl, rlaif_v


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path):
    rlaif_v(tmp_path / "source", rows=10, defects=False)
    return tmp_path / "source"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(name):
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert "Example" in shown.output and f"aspo-data {name} " in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_is_cut_at_eighty_columns(name, monkeypatch):
    """A model's name or an address that is cut cannot be typed."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(name, "--help").output
    assert max(map(len, shown.splitlines())) <= 80 and "\u2026" not in shown, shown


def test_the_first_help_lists_every_command():
    shown = run("--help")
    assert all(f" {name} " in shown.output for name in COMMANDS)
    assert run("--version").output.startswith("aspo-data ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom dataset_tools.cli import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'PIL', 'huggingface_hub', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for arguments in (["--help"], ["convert", "--help"], ["score", "--help"], ["push", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", (arguments, done.stdout, done.stderr)


def test_convert_prints_the_summary_to_stdout_and_the_rest_to_stderr(source, tmp_path):
    done = run("convert", source, tmp_path / "out", "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["from"], summary["read"], summary["rows"], summary["rejected"]) == ("rlaif-v", 10, 10, 0)
    assert "reading source as rlaif-v" in done.stderr and "10 of 10 rows (100%)" in done.stderr
    checked = run("validate", tmp_path / "out", "--workers", 1)
    assert checked.exit_code == 0 and checked.stdout == "10 rows, 0 problems\n"
    text = run("convert", source, tmp_path / "again", "--workers", 1)
    assert re.match(r"10 rows with \d+ sentences in ", text.stdout)


def test_dry_run_writes_nothing_and_shows_an_example(source, tmp_path):
    done = run("convert", source, tmp_path / "out", "--dry-run", "--json")
    value = json.loads(done.stdout)
    assert value["from"] == "rlaif-v" and value["total_rows"] == 10 and value["first_rows"]["rows"] == 10
    assert value["example"]["id"] == "0"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert "nothing was written" in run("convert", source, tmp_path / "out", "--dry-run").stdout


@pytest.mark.parametrize(("max_bad", "code"), [("1%", 1), ("70%", 0), ("0.7", 0)])
def test_too_many_rejected_rows_make_exit_code_1_but_lose_nothing(max_bad, code, tmp_path):
    fixture = rlaif_v(tmp_path / "source", rows=10)
    done = run("convert", fixture.path, tmp_path / "out", "--workers", 1, "--max-bad", max_bad, "--json")
    assert done.exit_code == code
    assert json.loads(done.stdout)["rejected"] == len(fixture.bad)
    assert ("more than --max-bad" in done.stderr) == bool(code)
    assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == len(fixture.bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.parquet", "out"], "nowhere.parquet does not exist"),
        (["SOURCE", "out", "--from", "rlaif"], "--from rlaif is not a known source: choose one of rlaif-v"),
        (["SOURCE", "out", "--from", "rlaif"], "Did you mean rlaif-v?"),
        (["SOURCE", "out", "--column", "prompt=qestion"], "no column qestion. Found: chosen, "),
        (["SOURCE", "out", "--column", "prompt=qestion"], "Did you mean question?"),
        (["SOURCE", "out", "--column", "promt=question"], "jsonl maps prompt, chosen, rejected, images, id"),
        (["SOURCE", "out", "--column", "promt=question"], "Did you mean prompt?"),
        (
            ["SOURCE", "out", "--from", "rlaif-v", "--column", "prompt=question"],
            "the columns of rlaif-v have fixed names. Columns are mapped with --from llamafactory or jsonl.",
        ),
        (["SOURCE", "out", "--max-bad", "many"], "--max-bad many is not a share"),
        (["SOURCE", "out", "--column", "prompt"], "--column prompt is not of the form NAME=COLUMN"),
        (["SOURCE", "out", "--column", "prompt=q,chosen=good"], "write --column once for each of them"),
        (["SOURCE", "out", "--image-root", "nowhere"], "--image-root nowhere is neither a folder nor a zip"),
        (["SOURCE", "out", "--revision", "main"], "--revision is for a dataset on the Hub"),
        (["SOURCE", "out", "--split", "test"], "has no split test"),
        (["SOURCE", "out", "--pairs", "some"], "some"),
        (["SOURCE"], "out"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_exit_code_2(
    arguments, message, source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = run("convert", *[str(source) if item == "SOURCE" else item for item in arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split()).replace("│ ", "")
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


def test_a_column_mapping_alone_means_jsonl(tmp_path):
    fixture = jsonl(tmp_path / "source")
    mapping = [f"--column={name}={column}" for name, column in fixture.settings["options"].columns.items()]
    roots = [f"--image-root={root}" for root in fixture.settings["image_roots"]]
    done = run("convert", fixture.path, tmp_path / "out", *mapping, *roots, "--max-bad", "50%", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["from"] == "jsonl"


def test_validate_names_the_rows_and_exits_1(source, tmp_path):
    run("convert", source, tmp_path / "out", "--workers", 1)
    file = next((tmp_path / "out" / "data").iterdir())
    file.write_bytes(file.read_bytes()[:-8])
    done = run("validate", tmp_path / "out", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["problems"] == 2 and report["named"][0]["file"].startswith("data/train-00000")
    assert run("validate", tmp_path).exit_code == 2


def test_export_reports_the_rows(source, tmp_path):
    run("convert", source, tmp_path / "out", "--workers", 1)
    done = run("export", tmp_path / "out", tmp_path / "plain", "--to", "llamafactory", "--json")
    assert json.loads(done.stdout)["rows"] == 10
    assert run("export", tmp_path / "out", tmp_path / "plain", "--to", "llamafactory").exit_code == 2


def fail(error: BaseException):
    def command() -> None:
        raise error

    return errors.reported(command)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("set this"), 2, "error: set this"),
        (DataError("row 3"), 1, "error: row 3"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "the disk is full while writing /x/y"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "error: /x: Permission denied."),
        (KeyboardInterrupt(), 130, "error: stopped. Run the same command again to go on."),
        (MemoryError(), 1, "Fewer --workers"),
    ],
)
def test_known_errors_are_one_line_without_a_traceback(error, code, message, capsys):
    import typer

    with pytest.raises(typer.Exit) as stop:
        fail(error)()
    shown = capsys.readouterr()
    assert stop.value.exit_code == code and message in shown.err
    assert "Traceback" not in shown.err and shown.out == ""


def test_an_unknown_error_shows_its_traceback_and_any_error_does_on_request(capsys):
    import typer

    with pytest.raises(typer.Exit):
        fail(ZeroDivisionError("what"))()
    assert "Traceback" in capsys.readouterr().err
    errors.show_traceback(True)
    try:
        with pytest.raises(typer.Exit):
            fail(UsageError("set this"))()
    finally:
        errors.show_traceback(False)
    assert "Traceback" in capsys.readouterr().err


def test_tokens_never_appear(monkeypatch, capsys):
    import typer

    monkeypatch.setenv("HF_TOKEN", "a-secret-without-prefix")
    with pytest.raises(typer.Exit):
        fail(RuntimeError("hf_abcdefghijklmn and a-secret-without-prefix"))()
    output.note("Bearer hf_abcdefghijklmn")
    shown = capsys.readouterr().err
    assert "hf_abc" not in shown and "a-secret" not in shown and "hf_***" in shown


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys):
    with output.Progress("convert", total=10, every=0) as progress:
        progress.advance(2)
        progress.advance(3)
        progress.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "convert: 2 of 10 rows (20%)"
    assert lines[1].startswith("convert: 5 of 10 rows (50%), ") and "left" in lines[1]
    assert lines[-1].startswith("convert: 10 of 10 rows (100%)")
    assert "\r" not in "".join(lines)


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with output.Progress("convert", total=None) as progress:
        progress.advance(3)
    shown = capsys.readouterr().err
    assert shown.startswith("\r") and "convert: 3 rows" in shown and shown.endswith("\n")


def test_a_foreign_package_in_our_place_is_noticed_and_named(tmp_path):
    """A package of the same name earlier on the path, and its distribution's metadata."""
    (tmp_path / "dataset_tools").mkdir()
    (tmp_path / "dataset_tools" / "__init__.py").write_text("")
    info = tmp_path / "dataset_tools-0.2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dataset-tools\nVersion: 0.2.1\n")
    (info / "top_level.txt").write_text("dataset_tools\n")
    (info / "RECORD").write_text("dataset_tools/__init__.py,,\n")
    code = "import sys; sys.argv[0] = 'aspo-data'; from aspo_plugin.data_package import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "dataset-tools 0.2.1" in done.stderr and "pip uninstall dataset-tools" in done.stderr
    assert str(tmp_path / "dataset_tools") in done.stderr and "Traceback" not in done.stderr


def test_a_foreign_package_that_shares_our_folder_is_noticed(tmp_path, monkeypatch):
    import dataset_tools

    assert dataset_tools.foreign_distributions() == []
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "dataset_tools-0.2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dataset-tools\nVersion: 0.2.1\n")
    (info / "top_level.txt").write_text("dataset_tools\n")
    assert dataset_tools.foreign_distributions() == ["dataset-tools 0.2.1"]


def test_the_console_script_starts_without_the_foreign_check_costing_an_import(tmp_path):
    script = Path(sys.executable).parent / "aspo-data"
    if not script.exists():
        pytest.skip("the project is not installed here")
    assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout.startswith(
        "aspo-data "
    )


def test_help_names_every_source():
    from dataset_tools.cli.convert import SOURCES
    from dataset_tools.sources import REGISTRY

    assert sorted(SOURCES) == sorted(REGISTRY)


@pytest.mark.parametrize(
    ("words", "found"),
    [("convert --from rl", ["rlaif-v", "rlhf-v"]), ("conv", ["convert"]), ("convert ./any", [])],
)
def test_names_are_completed_and_paths_left_to_the_shell(words, found):
    """As the script asks that `--install-completion` puts into the shell: it falls back to files."""
    asked = {"_ASPO_DATA_COMPLETE": "complete_bash", "COMP_WORDS": f"aspo-data {words}"}
    done = subprocess.run(
        [sys.executable, "-c", "from dataset_tools.cli import main; main()"],
        capture_output=True,
        text=True,
        env={**os.environ, **asked, "COMP_CWORD": str(len(words.split()))},
    )
    assert done.stdout.split() == found, done.stderr


MISSING = ["../nothing", "./a", "a/b/c", "nothing", "/x", "rows/all.jsonl", "sets\\\\mine"]


@pytest.mark.parametrize("name", MISSING)
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name):
    """No connection is made in this test: the Hub would be asked offline, and say so."""
    from dataset_tools.convert.locate import locate
    from dataset_tools.nearest import not_here

    with pytest.raises(UsageError, match="does not exist"):
        locate(name, None)
    assert not_here("openbmb/RLAIF-V-Dataset") is None and not_here("OpenGVLab/MMPR-v1.2") is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["convert", "rlaif-w", "out"], "Did you mean rlaif-v?"),
        (["convert", "./rlaif-w", "out"], "Did you mean rlaif-v?"),
        (["convert", "sets/minne.jsonl", "out"], "Did you mean sets/mine.jsonl?"),
        (
            ["convert", "sets/rlaif", "out"],
            "does not exist here, and the Hub gave none. Did you mean sets/",
        ),
        (["convert", "set/mine.jsonl", "out"], "Did you mean sets?"),
        (["convert", "rlaif-v", "out", "--image-root", "picture"], "Did you mean pictures?"),
        (["stats", "rlaif-w"], "rlaif-w does not exist. Did you mean rlaif-v?"),
        (["validate", "rlaif-w"], "Did you mean rlaif-v?"),
        (["preview", "rlaif-w", "--html", "p.html"], "Did you mean rlaif-v?"),
        (["push", "rlaif-w", "me/set"], "Did you mean rlaif-v?"),
        (["export", "rlaif-w", "plain", "--to", "trl"], "Did you mean rlaif-v?"),
        (["make", "set.yml"], "Did you mean set.yaml?"),
        (["push", "rlaif-v", "set"], "'set' is not a Hub id, which is owner/name."),
        (["pull", "set", "here"], "'set' is not a Hub id, which is owner/name."),
        (["make", "sets/mine.jsonl"], "mine.jsonl, line 2: no YAML: "),
        (["make", "set.yaml"], "set.yaml: score: clip does not exist, and it is not a Hub id"),
        (["make", "roots.yaml"], "roots.yaml: mine: --image-root picture is neither"),
    ],
)
def test_a_misspelt_path_is_met_with_the_nearest_name(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for folder in ("rlaif-v", "pictures", "sets/rlaif-v"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sets" / "mine.jsonl").write_text("{}\n{}\n")
    sources = "out: mix\nsources: {mine: {source: sets/mine.jsonl}}\n"
    (tmp_path / "set.yaml").write_text(sources + "score: {model: clip}\n")
    (tmp_path / "roots.yaml").write_text(sources.replace("jsonl}", "jsonl, image_root: picture}"))
    done = run(*arguments)
    assert done.exit_code == 2 and told in done.stderr.splitlines()[-1], done.stderr
