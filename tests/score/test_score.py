"""`aspo-data score` end to end: what is written, resuming, several processes, wrong inputs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import arrow_schema, invariants, iter_rows, shards
from dataset_tools.scoring.scored import scored_by
from dataset_tools.scoring.scorer import SentenceScorer
from tests.support import converted, data

pytest.importorskip("torch")
OURS = ("chosen_similarity", "rejected_similarity")


@pytest.fixture(scope="module")
def unscored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of ten rows; two rows have two images, one has a broken image, one has none."""
    rows = data.rows(38, similarity=False) + data.rows(2, seed=1, images_per_prompt=2, similarity=False)
    rows[3]["images"] = [{"bytes": rows[3]["images"][0]["bytes"][:200], "path": None}]
    rows[17]["images"] = []
    return converted.write(
        tmp_path_factory.mktemp("unscored") / "set", [rows[start::4] for start in range(4)]
    )


@pytest.fixture
def out(unscored: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unscored, tmp_path / "set")


def score(out: Path, model: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["score", str(out), "--model", str(model), *options])


def scored_json(out: Path, model: Path, *options: str) -> dict[str, Any]:
    result = score(out, model, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def similarities(out: Path) -> dict[str, Any]:
    return {row["id"]: [row[name] for name in OURS] for row in iter_rows(out)}


def test_every_sentence_of_the_chosen_response_gets_its_cosine(out, unscored, encoder):
    found = scored_json(out, encoder("clip"))
    before, after = list(iter_rows(unscored)), list(iter_rows(out))
    scorer = SentenceScorer(str(encoder("clip")))
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in OURS} == {
            k: v for k, v in new.items() if k not in OURS
        }
        assert new["rejected_similarity"] is None and not invariants(new)
        text = new["chosen"][0]["content"]
        sentences = [text[span["start"] : span["end"]] for span in new["chosen_sentences"]]
        [expected] = scorer.score([(new["images"], sentences)])
        if None in expected:
            assert new["chosen_similarity"] == expected
        else:
            np.testing.assert_allclose(new["chosen_similarity"], expected, atol=1e-6)
    assert {row["id"] for row in after if None in row["chosen_similarity"]} == {
        before[30]["id"],
        before[14]["id"],
    }
    assert [pq.read_schema(path).field(8) for path in shards(out)] == [arrow_schema().field(8)] * 4
    assert found["counts"]["unreadable_images"] == 1 and found["unreadable"] == [before[30]["id"]]


def test_model_and_counts_are_recorded(out, encoder):
    found = scored_json(out, encoder("clip"))
    recorded = read_record(out)["scorer"]
    assert recorded["model"] == "clip" and recorded["fingerprint"] and recorded["dtype"] == "float32"
    assert recorded["rejected"] is False
    assert recorded["counts"] == found["counts"] and recorded["counts"]["rows"] == 40
    assert str(encoder("clip").parent) not in (out / "aspo.json").read_text()
    rest = {**read_record(out), "scorer": None}
    assert rest == converted.RECORD | {"counts": rest["counts"]}


def test_rejected_responses_too(out, encoder):
    scored_json(out, encoder("clip"))
    chosen = {name: values[0] for name, values in similarities(out).items()}
    assert scored_json(out, encoder("clip"), "--rejected")["rejected"] is True
    for row in iter_rows(out):
        assert len(row["rejected_similarity"]) == len(row["rejected_sentences"])
        if None not in row["chosen_similarity"]:
            np.testing.assert_allclose(row["chosen_similarity"], chosen[row["id"]], atol=1e-6)
    # Nothing is thrown away by asking for less.
    before = [path.stat().st_mtime_ns for path in shards(out)]
    scored_json(out, encoder("clip"))
    assert [path.stat().st_mtime_ns for path in shards(out)] == before


def test_another_model_scores_all_again(out, encoder):
    scored_json(out, encoder("clip"), "--rejected")
    first = similarities(out)
    assert scored_json(out, encoder("siglip"))["model"] == "siglip"
    second = similarities(out)
    assert all(values[1] is None for values in second.values()), "rejected scores of the old model remain"
    assert sum(first[name][0] != second[name][0] for name in first) == 38


def test_a_stopped_run_goes_on_with_the_shards_left(out, encoder, monkeypatch):
    from dataset_tools.scoring import folder as module

    score_shard, calls = module.score_shard, []

    def stopping(path, *rest):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        score_shard(path, *rest)

    monkeypatch.setattr(module, "score_shard", stopping)
    result = score(out, encoder("clip"))
    assert result.exit_code == 130 and "Run the same command again" in result.stderr
    assert [bool(scored_by(path)) for path in shards(out)] == [True, True, False, False]
    assert read_record(out)["scorer"] is None
    calls[:] = ["", "", ""]
    result = score(out, encoder("clip"), "--json")
    assert result.exit_code == 0 and "20 of 40 rows are already scored" in result.stderr
    assert calls[3:] == [path.name for path in shards(out)[2:]]
    assert json.loads(result.stdout)["counts"]["rows"] == 40


def test_killed_at_any_moment_and_run_again_equals_an_uninterrupted_run(out, unscored, encoder, tmp_path):
    whole = shutil.copytree(unscored, tmp_path / "whole")
    scored_json(whole, encoder("clip"))
    command = [sys.executable, "-m", "dataset_tools", "score", str(out), "--model", str(encoder("clip"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not scored_by(shards(out)[0]):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in shards(out):
        pq.read_table(path)
    scored_json(out, encoder("clip"))
    assert similarities(out) == similarities(whole)
    assert [path.read_bytes() for path in shards(out)] == [path.read_bytes() for path in shards(whole)]


def launched(launcher: list[str], out: Path, model: Path) -> subprocess.CompletedProcess[str]:
    """`aspo-data score` on the CPU, started by a launcher of several processes."""
    command = [sys.executable, "-m", *launcher, "-m", "dataset_tools", "score", str(out)]
    result = subprocess.run(
        [*command, "--model", str(model), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Without --multi_gpu it starts one process where it sees no GPUs.
ACCELERATE = ["accelerate.commands.launch", "--num_processes", "2", "--multi_gpu", "--main_process_port", "0"]


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_share_the_shards(launcher, out, unscored, encoder, tmp_path):
    pytest.importorskip("accelerate")
    whole = shutil.copytree(unscored, tmp_path / "whole")
    scored_json(whole, encoder("clip"))
    result = launched(launcher, out, encoder("clip"))
    assert json.loads(result.stdout)["counts"]["rows"] == 40
    assert "score: 40 of 40 rows" in result.stderr and result.stderr.count("rows (100%)") == 1
    assert read_record(out) == read_record(whole)
    for found, expected in zip(iter_rows(out), iter_rows(whole), strict=True):
        # The processes may use another number of threads, which changes the last bit.
        found, expected = found["chosen_similarity"], expected["chosen_similarity"]
        assert np.allclose(np.float32(found), np.float32(expected), atol=1e-5, equal_nan=True)


def test_a_refusal_is_the_last_line_under_torchrun(tmp_path):
    """Below torchrun's own traceback, which is started as a module, not as the command."""
    command = [sys.executable, "-m", *TORCHRUN, "-m", "dataset_tools", "score", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1 and any("ChildFailedError" in line for line in lines)
    assert lines[-1] == f"error: {tmp_path / 'none'} does not exist."


SLOW = """
import os, sys, time
from dataset_tools.scoring import folder as module

score_shard = module.score_shard

def slow(path, *rest):
    others = [other for other in module.shards(path.parent.parent) if other != path]
    while os.environ["RANK"] == "1" and not all(map(module.scored_by, others)):
        time.sleep(0.05)
    print("process", os.environ["RANK"], "scores", path.name, file=sys.stderr, flush=True)
    score_shard(path, *rest)

module.score_shard = slow
from dataset_tools.cli import main
main()
"""


def test_a_slow_process_holds_no_shard_but_its_own(out, encoder, tmp_path):
    """The second process scores nothing until all shards but the one it has taken are done."""
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", *TORCHRUN, str(tmp_path / "slow.py"), "score", str(out)]
    result = subprocess.run(
        [*command, "--model", str(encoder("clip")), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    by = [line.split()[1] for line in result.stderr.splitlines() if " scores train-" in line]
    assert sorted(by) in (["0", "0", "0", "1"], ["0"] * 4) and len(by) == len(shards(out)) == 4
    assert json.loads(result.stdout)["counts"]["rows"] == 40


def test_one_process_of_accelerate_says_why_it_is_alone(out, encoder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # set for every process it starts
    result = score(out, encoder("clip"))
    assert result.exit_code == 0 and "accelerate started one process" in result.stderr


def test_a_full_disk_is_taken_up_without_a_flag_that_score_lacks(out, encoder, monkeypatch):
    error = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("dataset_tools.dataset.parquet.pq.ParquetWriter", Mock(side_effect=error))
        result = score(out, encoder("clip"))
    assert result.exit_code == 1
    assert "the disk is full. Free some space, then run the same command again." in result.stderr
    assert score(out, encoder("clip")).exit_code == 0


def test_a_second_run_on_the_same_folder_is_refused(out, encoder):
    import fcntl

    handle = os.open(out / "data", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        result = score(out, encoder("clip"))
        assert result.exit_code == 2 and "another `aspo-data score`" in result.stderr
    finally:
        os.close(handle)
    assert score(out, encoder("clip")).exit_code == 0


def test_no_readable_image_at_all_is_a_failure(tmp_path, encoder):
    rows = data.rows(3, similarity=False)
    for row in rows:
        row["images"] = [{"bytes": b"broken", "path": None}]
    result = score(converted.write(tmp_path / "set", [rows]), encoder("clip"))
    assert result.exit_code == 1 and "none of the 3 images could be decoded" in result.stderr


def test_an_error_leaves_the_shard_as_it_was(out, unscored, encoder, monkeypatch):
    monkeypatch.setattr("dataset_tools.scoring.scorer.DualEncoder.encode_images", lambda *_: 1 / 0)
    assert score(out, encoder("clip")).exit_code == 1
    assert [path.read_bytes() for path in shards(out)] == [path.read_bytes() for path in shards(unscored)]
    assert [path.name for path in (out / "data").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "./missing"], "does not exist"),
        (["--dtype", "half"], "choose one of auto, float32"),
        (["--batch-size", "0"], "batch-size"),
    ],
)
def test_mistakes_are_met_before_the_model_loads(arguments, message, out, encoder, monkeypatch):
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", lambda *_, **__: 1 / 0)
    result = CliRunner().invoke(app, ["score", str(out), "--model", str(encoder("clip")), *arguments])
    assert result.exit_code == 2 and message in result.stderr


def test_a_folder_that_is_no_converted_dataset(tmp_path, encoder):
    result = score(tmp_path, encoder("clip"))
    assert result.exit_code == 2 and "not a dataset that `aspo-data convert` made" in result.stderr
