"""Scoring under faults: a run that is killed, memory, models that bring code, a process that dies."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import iter_rows, shards
from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.encoder import DualEncoder, Identity
from dataset_tools.scoring.folder import score_dataset
from dataset_tools.scoring.memory import BYTES_PER_PIXEL, Budget
from dataset_tools.scoring.scorer import SentenceScorer
from tests.support import converted, data

torch = pytest.importorskip("torch")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = data.rows(12, similarity=False)
    return converted.write(tmp_path / "set", [rows[:4], rows[4:8], rows[8:]])


def score(out: Path, model: Path) -> Any:
    return CliRunner().invoke(app, ["score", str(out), "--model", str(model)])


class Killed(BaseException):
    """Ends a run without the clean-up that an exception gets."""


def test_a_killed_run_leaves_only_shards_in_data(
    out: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in shards(out)]
    (out / "data" / f".{names[1]}.partial").write_bytes(b"left by an earlier version")
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "abandon", lambda self: self._thread.shutdown())
        patch.setattr(ShardWriter, "close", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            score(out, encoder("clip"))
    assert any((out / ".scoring").iterdir())
    assert [path.name for path in sorted((out / "data").iterdir())] == names
    done = score(out, encoder("clip"))
    assert done.exit_code == 0, done.output
    assert not (out / ".scoring").exists()
    assert [path.name for path in sorted((out / "data").iterdir())] == names
    assert all(row["chosen_similarity"] for row in iter_rows(out))


def test_decoded_bytes_are_bounded_whatever_the_threads(encoder: Any) -> None:
    def picture(side: int) -> bytes:
        stream = io.BytesIO()
        Image.effect_noise((side, side), 50).convert("RGB").save(stream, "PNG")
        return stream.getvalue()

    sides = [16, 90, 24, 200, 60, 33, 120, 48] * 5
    rows = [([picture(side), picture(side + 1)], ["A picture.", "It is grey."]) for side in sides]
    plain = list(SentenceScorer(str(encoder("clip")), threads=6, batch_size=4).score(rows))
    scorer = SentenceScorer(str(encoder("clip")), threads=6, batch_size=4)
    scorer._budget = budget = Budget(100 * 100 * BYTES_PER_PIXEL)
    most, largest = 0, 201 * 201 * BYTES_PER_PIXEL
    lock, claim = threading.Lock(), budget.claim

    def watched(size: int, wait: bool = True) -> bool:
        nonlocal most
        granted = claim(size, wait)
        with lock:
            most = max(most, budget._held)
        return granted

    budget.claim = watched  # type: ignore[method-assign]
    assert list(scorer.score(rows)) == plain
    assert 0 < most <= max(budget.limit, largest)
    assert budget._held == 0


class Payload:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_weights_that_are_a_program_are_refused(encoder: Any, tmp_path: Path) -> None:
    model = shutil.copytree(encoder("clip"), tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({"text_model.bias": Payload(tmp_path / "ran")}, model / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be loaded"):
        DualEncoder(str(model), pickled_weights=True)
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(DataError, match="cannot be loaded"):
        DualEncoder(str(model), pickled_weights=True)
    assert not (tmp_path / "ran").exists()


def test_weights_are_safetensors_unless_asked_for(
    encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle is read where its user says so, and of OpenAI's CLIP, whose scorer has no others."""
    from safetensors.torch import load_file

    model = tmp_path / "openai" / "clip-vit-tiny"
    shutil.copytree(encoder("clip"), model)
    whole = DualEncoder(str(model))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights as safetensors.*aspo-data score --pickled-weights"):
        DualEncoder(str(model))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no weights as safetensors"):
        DualEncoder("openai/clip-vit-tiny")  # a folder, whatever its name
    tokens = whole.tokenize(["A cat."])
    read = DualEncoder(str(model), pickled_weights=True)
    assert torch.equal(read.encode_texts(tokens), whole.encode_texts(tokens))

    asked: list[Any] = []

    def loaded(source: str, **options: Any) -> None:
        asked.append((source, options["use_safetensors"]))
        raise OSError("not there")

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", loaded)
    monkeypatch.setattr(
        "dataset_tools.scoring.encoder.identify", lambda name, revision: Identity(name, revision="0" * 40)
    )
    for name in ("openai/clip-vit-large-patch14-336", "somebody/clip"):
        with pytest.raises(DataError, match="cannot be loaded: not there"):
            DualEncoder(name)
    assert asked == [("openai/clip-vit-large-patch14-336", None), ("somebody/clip", True)]


def test_code_that_a_model_brings_is_never_run(encoder: Any, tmp_path: Path) -> None:
    model = shutil.copytree(encoder("clip"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    ran = tmp_path / "ran"
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoProcessor": "evil.Model"}
    (model / "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    DualEncoder(str(model))  # the library's own class of that type
    (model / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": classes}))
    with pytest.raises(DataError, match="needs code from its own repository, which is never run here"):
        DualEncoder(str(model))
    assert not ran.exists()


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize("body", [b"", b"{", b"\0" * 64, b"[]"])
def test_a_damaged_model_is_one_message(
    encoder: Any, tmp_path: Path, out: Path, file: str, body: bytes
) -> None:
    model = shutil.copytree(encoder("clip"), tmp_path / "model")
    if not (model / file).exists():
        pytest.skip(f"this model has no {file}")
    (model / file).write_bytes(body)
    told = score(out, model)
    assert told.exit_code != 0
    assert "Traceback" not in told.output and "please report" not in told.output, told.output


def test_a_process_that_died_is_one_message() -> None:
    from dataset_tools.scoring.folder import _Team

    def gone(*_: Any) -> None:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    class Gone:
        barrier = get = add = staticmethod(gone)

    team = _Team(rank=1, store=Gone, distributed=Gone)
    for ask in (team.wait, lambda: list(team.take())):
        with pytest.raises(DataError, match="another process of this scoring ended"):
            ask()


def test_a_model_that_cannot_be_loaded_leaves_the_record_of_the_earlier_one(
    out: Path, encoder: Any, tmp_path: Path
) -> None:
    assert score(out, encoder("clip")).exit_code == 0
    before = read_record(out)["scorer"]
    broken = shutil.copytree(encoder("clip"), tmp_path / "broken")
    for file in broken.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    assert score(out, broken).exit_code in (1, 2)
    assert before and read_record(out)["scorer"] == before

    class OneMachine:
        def spread(self, worker: Any, pieces: Any) -> Any:
            yield from map(worker(), pieces)

    with pytest.raises((DataError, UsageError)):
        score_dataset(out, str(broken), cluster=OneMachine())
    assert read_record(out)["scorer"] == before
    other = encoder("siglip")
    assert score_dataset(out, str(other), cluster=OneMachine()) == read_record(out)["scorer"] != before
