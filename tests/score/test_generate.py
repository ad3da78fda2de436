"""`aspo-data generate`: pairs of a tiny LLaVA's own answers, converted and scored; a stand-in server."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset.schema import iter_rows
from dataset_tools.errors import BadRow, SkippedPair, UsageError
from dataset_tools.generate.answers import Answer, Sampling, answer_of, seed_of
from dataset_tools.generate.distortions import Distortion, distorted, noise_level, noised_picture
from dataset_tools.generate.endpoint import Endpoint
from dataset_tools.generate.folder import SCHEMA
from dataset_tools.generate.instructions import instruction_of
from dataset_tools.generate.pairing import (
    EMPTY,
    IDENTICAL,
    UNFINISHED,
    Answers,
    BestAgainstWorst,
    CleanAgainstDistorted,
    Question,
)
from tests.support import backbones

torch = pytest.importorskip("torch")
ROWS, TOKENS = 11, "12"


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Smooth, so that it stays itself as a JPEG."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbones.build("llava", tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-Instruct's layout; row 4 has no image file, row 7 a damaged one."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "coco").mkdir()
    rows = []
    for index in range(ROWS):
        name = f"{index:012}.jpg"
        picture(index).save(folder / "coco" / name, quality=95)
        asked = ("<image>\n" if index % 2 else "") + f"What is in picture {index}?"
        said = [{"from": "human", "value": asked}, {"from": "gpt", "value": "A cat."}]
        rows.append({"id": "same", "image": name, "conversations": [*said, *said]})
    (folder / "coco" / f"{4:012}.jpg").unlink()
    damaged = folder / "coco" / f"{7:012}.jpg"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:200] + b"\0" * 40 + data[-2:])
    (folder / "instruct.json").write_text(json.dumps(rows))
    card = "license: cc-by-nc-sa-4.0\nsource_datasets:\n- extended|me/prompts"
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return folder


def arguments(source: Path, out: Path, *options: object) -> list[str]:
    fixed = [
        "--image-root",
        source / "coco",
        "--max-new-tokens",
        TOKENS,
        "--batch-size",
        2,
        "--shard-rows",
        4,
    ]
    return [str(part) for part in ("generate", source / "instruct.json", out, *fixed, *options)]


def run(*parts: object) -> Any:
    return CliRunner().invoke(app, [str(part) for part in parts])


def generated(source: Path, out: Path, *options: object) -> dict[str, Any]:
    result = run(*arguments(source, out, "--json", *options))
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def pairs(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "data").iterdir()) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def whole(source: Path, llava: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("whole") / "pairs"
    return out, generated(source, out, "--model", llava, "--noise-step", 999)


def test_pairs_are_the_models_own_answers(whole, source, llava):
    """Against transformers' own calls, one row at a time."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    out, counts = whole
    assert counts["read"] == ROWS == counts["pairs"] + counts["left_out"] + counts["refused"]
    assert counts["refused"] == 2 and counts["pairs"] >= 5
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = AutoProcessor.from_pretrained(llava)
    for row in pairs(out):
        assert row["question"] == f"What is in picture {row['idx']}?"
        name = f"{row['idx']:012}.jpg"
        assert row["image"] == {"bytes": (source / "coco" / name).read_bytes(), "path": name}
        opened = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        content = [{"type": "image", "image": opened}, {"type": "text", "text": row["question"]}]
        batch = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**batch, do_sample=False, max_new_tokens=int(TOKENS))
        answer = processor.tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert row["chosen"] == answer.strip()
        assert row["chosen"] != row["rejected"]


def test_noise_is_on_the_values_that_the_model_reads(llava, monkeypatch):
    from dataset_tools.generate.local_model import LocalModel

    model = LocalModel(str(llava), device="cpu")
    seen: list[Any] = []
    real = model._model.generate
    monkeypatch.setattr(
        model._model, "generate", lambda **given: seen.append(given["pixel_values"]) or real(**given)
    )
    for step in (None, 500, 500):
        model.answer(["What?"], [picture(1)], [3], Sampling(max_new_tokens=1), step)
    clean, noised, again = seen
    signal, noise = noise_level(500)
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(noised, signal * clean + noise * drawn)
    assert torch.equal(noised, again) and not torch.equal(noised, clean)


def test_noise_of_a_still_picture_is_one_frames(tmp_path):
    """Qwen's and GLM's patches hold a picture twice: noise of each copy's own would partly cancel out."""
    from dataset_tools.generate.local_model import LocalModel, _drawn

    model = LocalModel(str(backbones.build("qwen2_5_vl", tmp_path / "model")), device="cpu")
    frames = model._processor.image_processor.temporal_patch_size
    clean = model._inputs(model._texts(["What?"]), [picture(1)])["pixel_values"]
    batch = {"pixel_values": clean}
    model._add_noise(batch, 500, 3)
    split = batch["pixel_values"].view(len(clean), 3, frames, -1)
    assert frames == 2 and torch.equal(split[:, :, 0], split[:, :, 1])
    signal_, noise = noise_level(500)
    drawn = (batch["pixel_values"] - signal_ * clean) / noise
    assert abs(drawn.std() - 1) < 0.05 and abs(drawn.mean()) < 0.05
    single = drawn.view(len(clean), 3, frames, -1)[:, :, 0].flatten(1)
    assert abs(np.corrcoef(single[:, :-1].flatten(), single[:, 1:].flatten())[0, 1]) < 0.05

    # Frames before the channels, or behind the pixels; a film's frames are each a picture of their own.
    picture_values = torch.rand(7, 3, 16)
    for stacked, at in (
        (picture_values[:, None].repeat(1, 2, 1, 1), 1),
        (picture_values[..., None].repeat(1, 1, 1, 2), 3),
    ):
        found = _drawn(stacked.flatten(1), 2, torch.Generator()).view(stacked.shape)
        assert torch.equal(found.select(at, 0), found.select(at, 1)) and abs(found.std() - 1) < 0.2
    film = _drawn(torch.rand(7, 96), 2, torch.Generator()).view(7, 3, 2, 16)
    assert not torch.equal(film[:, :, 0], film[:, :, 1])


def test_the_schedule_is_sevas():
    """Written anew from its public description: variances along a sigmoid from 1e-5 to 5e-3 in 1000 steps."""
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.005 - 0.00001) + 0.00001
    for step in (0, 500, 999):
        kept = torch.cumprod(1 - betas, 0)[step].item()
        assert np.allclose(noise_level(step), (kept**0.5, (1 - kept) ** 0.5), atol=1e-12)
    assert np.allclose(noise_level(500), (0.86, 0.51), atol=0.005)


def test_distortions_depend_on_the_seed_alone():
    image = picture(0, (900, 700))
    for kind in (Distortion.BLUR, Distortion.CROP, Distortion.BLANK):
        first, second = distorted(image, kind, 5), distorted(image, kind, 5)
        assert first.tobytes() == second.tobytes() != image.tobytes()
        assert first.size == ((450, 350) if kind is Distortion.CROP else image.size)
    blank = np.asarray(distorted(image, Distortion.BLANK, 0)).reshape(-1, 3)
    assert len(np.unique(blank, axis=0)) == 1
    noised = noised_picture(image, 500, 5)
    assert min(noised.size) == 336 and noised.tobytes() == noised_picture(image, 500, 5).tobytes()
    assert noised.tobytes() != noised_picture(image, 500, 6).tobytes()
    almost = np.abs(np.asarray(noised_picture(picture(0), 0, 1), float) - np.asarray(picture(0))).mean()
    assert almost < 2 < np.abs(np.asarray(noised_picture(picture(0), 999, 1), float) - 127).mean()


def test_rows_that_cannot_be_used_are_listed_with_their_reasons(whole):
    out, counts = whole
    refused = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in refused] == [4, 7]
    assert "not found" in refused[0]["reason"] and "instruct.json:4" in refused[0]["row"]
    assert sum(counts["reasons"].values()) == 2


def test_without_any_pair_the_command_fails_and_says_why(source, llava, tmp_path):
    """A crop of a picture of one colour is the same picture."""
    for index in range(3):
        Image.new("RGB", (64, 64), (90, 90 * index, 40)).save(tmp_path / f"{index}.png")
    rows = [{"prompt": f"What is {index}?", "image": f"{index}.png"} for index in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--model", llava, "--distort", "crop", "--max-new-tokens", TOKENS)
    same = run("generate", tmp_path / "rows.jsonl", tmp_path / "same", *options)
    assert same.exit_code == 1 and f"no pair came of 3 rows: {IDENTICAL} (3)" in same.stderr, same.stderr
    assert not (tmp_path / "same").exists() and not (tmp_path / "same.incomplete").exists()
    kept = [json.loads(line) for line in (tmp_path / "same.left_out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in kept] == [0, 1, 2] and {row["reason"] for row in kept} == {IDENTICAL}


def test_convert_reads_it_by_its_bare_command_and_both_steps_follow(whole, encoder, tmp_path):
    out, counts = whole
    result = run("convert", out, tmp_path / "aspo", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["from"] == "rlaif-v" and shown["rows"] == counts["pairs"] and not shown["rejected"]
    assert run("score", tmp_path / "aspo", "--model", encoder("clip")).exit_code == 0
    assert run("validate", tmp_path / "aspo").exit_code == 0
    for row, pair in zip(iter_rows(tmp_path / "aspo"), pairs(out), strict=True):
        assert row["chosen"][0]["content"] == pair["chosen"]
        assert row["rejected"][0]["content"] == pair["rejected"]
        assert row["images"][0]["bytes"] == pair["image"]["bytes"]


def test_licence_sources_and_model_reach_the_published_card(whole, llava, tmp_path):
    out, _ = whole
    assert run("convert", out, tmp_path / "aspo").exit_code == 0
    shown = run("push", tmp_path / "aspo", "me/pairs", "--dry-run", "--json")
    assert shown.exit_code == 0 and "licence" not in shown.stderr, shown.stderr
    planned = json.loads(shown.stdout)
    assert planned["license"] == "cc-by-nc-sa-4.0"
    header = yaml.safe_load(planned["card"].split("---\n")[1])
    assert header["license"] == "cc-by-nc-sa-4.0" and header["source_datasets"] == ["me/prompts"]
    for text in (
        f"answers by `{llava.name}` to prompts and images from instruct.json",
        "| Prompts and images | instruct.json |",
        f"| Answers | generated by `{llava.name}`, greedy |",
        "the answer to an image, and to the same image with noise, step 999 of 1000",
        f"`cc-by-nc-sa-4.0`, carried over from the source of prompts and images; answers by `{llava.name}`.",
        "No commercial use",
    ):
        assert text in planned["card"], text
    assert {row["source"] for row in iter_rows(tmp_path / "aspo", ["source"])} == {out.name}


def test_stopped_before_the_last_rename(whole, source, llava, tmp_path):
    out, counts = whole
    shutil.copytree(out, tmp_path / "pairs.incomplete")
    shown = run(
        *arguments(source, tmp_path / "pairs", "--json", "--resume"), "--model", llava, "--noise-step", 999
    )
    again = json.loads(shown.stdout)
    assert shown.stderr.endswith(
        f"convert {tmp_path}/pairs {tmp_path}/pairs-aspo, then aspo-data score {tmp_path}/pairs-aspo\n"
    )
    assert {**again, "out": ""} == {**counts, "out": ""} and files(tmp_path / "pairs") == files(out)


@pytest.mark.parametrize("options", [("--noise-step", 999), ("--temperature", 1)], ids=["greedy", "sampled"])
def test_killed_in_the_middle_and_resumed_gives_the_same_files(options, source, llava, tmp_path):
    options = ("--model", llava, *options)
    generated(source, tmp_path / "whole", *options)
    out = tmp_path / "out"
    command = [sys.executable, "-c", _SLOW, *arguments(source, out, *options)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    state = tmp_path / "out.incomplete" / "state.json"
    while not (state.is_file() and '"shards": 1,' in state.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert '"shards": 1,' in state.read_text() and not out.exists()

    refused = run(*arguments(source, out, *options))
    assert refused.exit_code == 2 and "--resume" in refused.stderr
    changed = run(*arguments(source, out, *options, "--resume", "--seed", 1))
    assert changed.exit_code == 2 and "seed is 1 now, but was 0" in changed.stderr
    counts = generated(source, out, *options, "--resume")
    assert files(out) == files(tmp_path / "whole")
    assert counts["read"] == ROWS
    assert generated(source, out, *options, "--resume") == counts  # nothing left to do


_SLOW = """
import sys, time
from dataset_tools.generate.generation import Generation
from dataset_tools.cli import app
pairs = Generation._pairs
def slow(self, *rest):
    pairs(self, *rest)
    if self._digests:  # what is killed then has one shard, however late the kill comes
        time.sleep(600)
Generation._pairs = slow
app(sys.argv[1:])
"""


def test_best_of_takes_the_best_against_the_worst(source, llava, encoder, tmp_path):
    from dataset_tools.scoring.scorer import SentenceScorer
    from dataset_tools.sentences import split_sentences

    options = ("--model", llava, "--best-of", 4, "--scorer", encoder("clip"))
    generated(source, tmp_path / "best", *options)
    scorer = SentenceScorer(str(encoder("clip")))
    for row in pairs(tmp_path / "best"):
        means = []
        for text in (row["chosen"], row["rejected"]):
            sentences = [text[start:end] for start, end in split_sentences(text)]
            means.append(np.mean(next(scorer.score([([row["image"]["bytes"]], sentences)]))))
        assert means[0] > means[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (("--seed", 1), "seed is 1 now, but was 0"),
        (("--distort", "blur"), "recipe.distort is 'blur' now, but was 'noise'"),
        (("--limit", 3), "limit is 3 now"),
        (("--dtype", "float16"), "models.answers.dtype is 'float16' now, but was 'float32'"),
        (("--model", "other"), "models.answers.model is 'other' now, but was 'llava'"),
    ],
)
def test_finished_work_is_not_taken_for_other_settings(change, message, whole, source, llava, tmp_path):
    out, counts = whole
    before = files(out)
    options = ("--model", llava, "--noise-step", 999, "--resume")
    refused = run(*arguments(source, out, *options, *change))
    assert refused.exit_code == 2 and message in refused.stderr, refused.stderr
    assert str(out) in refused.stderr.splitlines()[-1] and files(out) == before
    # Killed before the last rename: nothing else is asked for there.
    shutil.copytree(out, tmp_path / "pairs.incomplete")
    if change[0] == "--seed":
        refused = run(*arguments(source, tmp_path / "pairs", *options, *change))
        assert refused.exit_code == 2 and message in refused.stderr, refused.stderr
        assert generated(source, tmp_path / "pairs", *options) == {**counts, "out": str(tmp_path / "pairs")}
        assert files(tmp_path / "pairs") == before


class Said:
    """A model that says what it was told to, for each call."""

    def __init__(self, *calls: list[Any]):
        self.calls = list(calls)

    def identity(self) -> dict[str, Any]:
        return {}

    def answer(self, *_: Any) -> list[Any]:
        return self.calls.pop(0)


class Similar:
    """A scorer whose similarity of a sentence is the mean of the numbers in it."""

    def score(self, rows: Any) -> Any:
        return (
            [np.mean([float(n) for n in re.findall(r"[\d.]+", text)]) for text in texts] for _, texts in rows
        )


def test_what_becomes_of_a_pair():
    def said(text: str, cut: bool = False) -> list[Answer]:
        return [Answer(text, cut)]

    clean = [said("A cat.", True), said("A cat."), said(""), BadRow("no"), said("A cat.")]
    worse = [said("A dog.", True), said("A cat."), said("A dog."), said("A dog."), BadRow("no")]
    recipe = CleanAgainstDistorted(Said(clean, worse), Sampling(), Distortion.BLANK, 500)
    found = recipe([Question("What?", picture(0), 0)] * 5)
    assert found[0] == Answers("A cat.", "A dog.", 2)
    assert isinstance(found[1], SkippedPair) and str(found[1]) == IDENTICAL
    assert isinstance(found[2], SkippedPair) and str(found[2]) == EMPTY
    assert all(isinstance(one, BadRow) for one in found[3:])

    samples = [[Answer(text, False) for text in ("A3. A5.", "A9. A1.", "", "A1. A2.", "A4.5")], BadRow("no")]
    best = BestAgainstWorst(Said(samples), Sampling(1.0, count=5), Similar())  # type: ignore[arg-type]
    first, second = best([Question("What?", picture(0), 0)] * 2)
    assert first == Answers("A9. A1.", "A1. A2.", 0) and isinstance(second, BadRow)


def test_thoughts_are_no_answers():
    for written, text in (
        ("<think>A dog? No.</think>\n\nA cat.", "A cat."),
        ("A dog? No.</think>A cat.", "A cat."),  # the prompt opened it
        ("<think>No.</think><answer>A cat.</answer>", "A cat."),
        ("<think>No.</think><answer>A ca", "A ca"),
        ("◁think▷No.◁/think▷A cat.", "A cat."),
    ):
        assert answer_of(written, False) == Answer(text, False, thoughts=True)
    for written in ("A cat.", " A cat. ", "<think>\n\n</think>\n\nA cat."):
        assert answer_of(written, True) == Answer("A cat.", True)
    unfinished = Answer("", True, unfinished=True)
    assert (
        answer_of("<think>A dog? No, a", True) == unfinished == answer_of("A dog? No, a", True, thinking=True)
    )
    assert answer_of("<think>No.</think><think>A", True) == unfinished

    recipe = CleanAgainstDistorted(
        Said(
            [[answer_of("<think>No.</think>A cat.", False)], [unfinished]],
            [[answer_of("A dog.", False)], [answer_of("A dog.", False)]],
        ),
        Sampling(),
        Distortion.BLANK,
        500,
    )
    first, second = recipe([Question("What?", picture(0), 0)] * 2)
    assert first == Answers("A cat.", "A dog.", 0, thoughts=1)
    assert isinstance(second, SkippedPair) and str(second) == UNFINISHED


_THINKS = (
    "{% for turn in messages %}{% for part in turn.content %}{{ '<image>' if part.type == 'image' else "
    "part.text }}{% endfor %}{% endfor %}{{ '<think></think>' if enable_thinking is defined and not "
    "enable_thinking else '<think>' }}"
)


def test_a_model_is_told_not_to_think(llava, monkeypatch):
    """And where its template cannot say so, its thoughts are taken out, special tokens or not."""
    from dataset_tools.generate.local_model import LocalModel

    model = LocalModel(str(llava), device="cpu")
    tokenizer = model._processor.tokenizer
    model._processor.chat_template = _THINKS
    assert model._texts(["What?"]) == ["<image>What?<think></think>"]
    model._processor.chat_template = _THINKS.replace("enable_thinking", "thinks")
    assert model._texts(["What?"]) == ["<image>What?<think>"]

    tokenizer.add_special_tokens({"additional_special_tokens": ["</think>"]})
    said = tokenizer("No.</think>A cat.", add_special_tokens=False, return_tensors="pt")["input_ids"]
    for end, expected in ((None, "A cat."), (-len(tokenizer.tokenize("</think>A cat.")), "")):
        monkeypatch.setattr(
            model._model,
            "generate",
            lambda end=end, **given: torch.cat([given["input_ids"], said[:, :end]], 1),
        )
        [[answer]] = model.answer(["What?"], [picture(0)], [1], Sampling())
        assert answer.text.replace(" ", "") == expected.replace(" ", "")
        assert (answer.thoughts, answer.unfinished) == (bool(expected), not expected)


def test_layouts_of_questions():
    def asked(row: dict[str, Any], **columns: str) -> tuple[Any, ...]:
        found = instruction_of(row, columns)
        return found.question, found.image

    assert asked({"prompt": "What?", "image": "a.jpg"}) == ("What?", "a.jpg")
    assert asked({"q": "What?", "pic": ["a.jpg"]}, prompt="q", image="pic") == ("What?", "a.jpg")
    turns = [
        {"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "Hm?"}]}
    ]
    assert asked({"messages": turns}) == ("Hm?", "a.jpg")
    assert asked({"prompt": "<image>\nWhat?", "images": ["a.jpg"]}) == ("What?", "a.jpg")
    for row, reason in (
        ({"image": "a.jpg"}, "no prompt"),
        ({"prompt": "<image>", "image": "a.jpg"}, "empty"),
        ({"prompt": "What?"}, "no image"),
        ({"prompt": "What?", "image": ["a.jpg", "b.jpg"]}, "2 images"),
        ({"messages": [{"role": "system", "content": "Be brief."}, *turns]}, "role system"),
        ({"prompt": 3, "image": "a.jpg"}, "not a list of turns"),
    ):
        with pytest.raises(BadRow, match=reason):
            asked(row)


# --- an endpoint


class Stand(BaseHTTPRequestHandler):
    """Answers with what it was asked: the seed, the question and the mean of the picture."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((dict(self.headers), body))
            failing = server.failures.pop() if server.failures else None
        if failing:
            return self._send(failing, {"error": "busy"})
        if server.hanging:
            server.hanging.wait(120)
        if "chat_template_kwargs" in body and not server.switches:
            return self._send(400, {"error": "Unrecognized request argument: chat_template_kwargs"})
        image, text = body["messages"][0]["content"]
        if "picture 3" in text["text"]:
            return self._send(400, {"error": "the prompt is too long"})
        data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        mean = int(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean())
        answers = [f"{text['text']} {mean} A{index}." for index in range(body["n"])]
        choices = [{"message": {"content": answer}, "finish_reason": "stop"} for answer in answers]
        choices[0]["finish_reason"] = "length"
        return self._send(200, {"choices": choices})

    def _send(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        with contextlib.suppress(ConnectionError):  # a client that was stopped
            self.end_headers()
            self.wfile.write(data)


@pytest.fixture
def server():
    stand: Any = ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    stand.seen, stand.failures, stand.lock = [], [], threading.Lock()
    stand.hanging, stand.switches = None, True
    stand.address = f"http://127.0.0.1:{stand.server_port}/v1"
    stand.daemon_threads = True
    thread = threading.Thread(target=stand.serve_forever)
    thread.start()
    yield stand
    stand.shutdown()
    thread.join()
    stand.server_close()


def test_an_endpoint_is_asked_for_both_pictures(server, source, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    options = (
        "--model",
        "tiny",
        "--endpoint",
        server.address,
        "--api-key-env",
        "MY_KEY",
        "--distort",
        "crop",
    )
    counts = generated(source, tmp_path / "out", *options)
    rows = pairs(tmp_path / "out")
    assert counts["refused"] == 3 and counts["pairs"] == len(rows) == ROWS - 3 - counts["left_out"]
    assert counts["cut_answers"] == 2 * len(rows)
    assert any("HTTP N" in reason for reason in counts["reasons"])
    for headers, body in server.seen:
        assert headers["Authorization"] == "Bearer secret-key"
        assert (body["model"], body["temperature"], body["max_tokens"], body["n"]) == ("tiny", 0, 12, 1)
    assert "secret-key" not in json.dumps(
        [name.decode("latin-1") for name in files(tmp_path / "out").values()]
    )
    opened = Image.open(io.BytesIO(rows[0]["image"]["bytes"])).convert("RGB")
    assert rows[0]["chosen"] == f"{rows[0]['question']} {int(np.asarray(opened).mean())} A0."


def test_samples_of_an_endpoint_have_the_rows_own_seed(server, source, encoder, tmp_path):
    options = ("--model", "tiny", "--endpoint", server.address, "--best-of", 3, "--scorer", encoder("clip"))
    generated(source, tmp_path / "out", *options, "--seed", 5)
    assert {(body["n"], body["temperature"]) for _, body in server.seen} == {(3, 1.0)}
    seeds = {body["messages"][0]["content"][1]["text"]: body["seed"] for _, body in server.seen}
    assert seeds["What is in picture 2?"] == seed_of(5, 2) != seed_of(5, 1)


def test_a_busy_endpoint_is_asked_again_and_a_dead_one_ends_the_run(server):
    endpoint = Endpoint(server.address, "tiny", pause=0.0)
    server.failures = [503, 429]
    [found] = endpoint.answer(["What?"], [picture(0)], [1], Sampling(), None)
    assert not isinstance(found, BadRow) and found[0].text.startswith("What?")
    server.failures = [500] * 4
    with pytest.raises(Exception, match="failed 4 times, last with HTTP 500.*--resume"):
        endpoint.answer(["What?"], [picture(0)], [1], Sampling(), None)
    server.failures = [401]
    with pytest.raises(UsageError, match="--api-key-env"):
        endpoint.answer(["What?"], [picture(0)], [1], Sampling(), None)
    with pytest.raises(UsageError, match="serves tiny, not other"):
        Endpoint(server.address, "other")


def test_a_served_model_is_told_not_to_think(server):
    endpoint = Endpoint(server.address, "tiny", pause=0.0)
    endpoint.answer(["What?"], [picture(0)], [1], Sampling(), None)
    assert [body["chat_template_kwargs"] for _, body in server.seen] == [{"enable_thinking": False}]
    server.switches = False  # OpenAI's own refuses what it does not know
    endpoint = Endpoint(server.address, "tiny", pause=0.0)
    for _ in range(2):
        [[answer]] = endpoint.answer(["What?"], [picture(0)], [1], Sampling(), None)
        assert answer.text.startswith("What?")
    assert ["chat_template_kwargs" in body for _, body in server.seen[1:]] == [True, False, False]


def test_ctrl_c_waits_for_no_server(server, source, tmp_path):
    server.hanging = threading.Event()
    options = ("--model", "tiny", "--endpoint", server.address, "--distort", "crop")
    command = [sys.executable, "-m", "dataset_tools", *arguments(source, tmp_path / "out", *options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        while not server.seen:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
        server.hanging.set()
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    assert "with --resume to go on" in stderr.splitlines()[-1]
    server.hanging = None
    counts = generated(source, tmp_path / "out", *options, "--resume")
    assert counts["read"] == ROWS and counts["pairs"]


# --- mistakes


@pytest.mark.parametrize(
    "options, message",
    [
        (("--best-of", 3, "--distort", "blur"), "leave --distort out"),
        (("--best-of", 3, "--temperature", 0), "a --temperature above 0"),
        (("--column", "chosen=a"), "the names are prompt and image"),
        (("--column", "prompt=asked"), "none of the first rows.*asked"),
        (("--endpoint", "127.0.0.1"), "is no address"),
        (("--endpoint", "http://127.0.0.1:1/v1", "--dtype", "float16"), "server's business"),
        (("--revision", "main"), "is a folder: leave it out"),
        (("--dtype", "int3"), "choose one of"),
    ],
)
def test_mistakes_are_met_before_the_model_loads(options, message, source, llava, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", None)
    result = run(*arguments(source, tmp_path / "out", "--model", llava, *options))
    assert result.exit_code == 2 and re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


def test_a_model_without_images_or_template_is_refused(source, tmp_path, encoder):
    result = run(*arguments(source, tmp_path / "out", "--model", backbones.build("text", tmp_path / "text")))
    assert result.exit_code == 2 and "takes no images" in result.stderr, result.stderr
    model = backbones.build("instructblip", tmp_path / "instructblip")
    result = run(*arguments(source, tmp_path / "out", "--model", model))
    assert result.exit_code == 2 and "brings no chat template" in result.stderr, result.stderr


def test_embedded_images_of_parquet_rows(source, llava, tmp_path):
    images = [path.read_bytes() for path in sorted((source / "coco").iterdir())[:3]]
    table = pa.table(
        {
            "question": [f"What is {index}?" for index in range(3)],
            "image": pa.array(
                [{"bytes": image, "path": None} for image in images], SCHEMA.field("image").type
            ),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    options = ("--model", llava, "--max-new-tokens", TOKENS, "--noise-step", 999, "--json", "--seed", 1)
    result = run("generate", tmp_path / "rows.parquet", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    for row in pairs(tmp_path / "out"):
        assert row["image"]["bytes"] == images[row["idx"]]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "smolvlm", "llava_next", "internvl"])
def test_other_processors(name, source, tmp_path):
    """Sizes, nested lists, markers and padding differ; answers in a batch are those of a row alone."""
    from dataset_tools.generate.local_model import LocalModel

    model = LocalModel(str(backbones.build(name, tmp_path / name)), device="cpu")
    questions, pictures = (
        ["What?", "What is on the left of the red thing?"],
        [picture(1), picture(2, (40, 90))],
    )
    sampling = Sampling(max_new_tokens=6)
    together = model.answer(questions, pictures, [1, 2], sampling, None)
    alone = [
        model.answer([question], [image], [1], sampling, None)[0]
        for question, image in zip(questions, pictures, strict=True)
    ]
    assert together == alone
    assert (
        len(model.answer(questions, pictures, [1, 2], Sampling(1.0, count=3, max_new_tokens=4), 500)[1]) == 3
    )


def test_seeds_are_the_same_everywhere():
    assert (
        seed_of(0, 1) == seed_of(0, 1)
        and Counter(seed_of(0, row) for row in range(1000)).most_common(1)[0][1] == 1
    )
    assert 0 <= seed_of("a") < 2**31
