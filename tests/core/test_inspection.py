"""`aspo inspect` against the model's own logits and the method in plain Python, and what its page is told."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from aspo_plugin.config import AspoSettings
from aspo_plugin.inspection.measure import measure, prepare
from aspo_plugin.inspection.page import samples_page
from aspo_plugin.inspection.run import find_run
from dataset_tools.errors import UsageError
from tests.support import converted, data, own_code
from tests.support.backbones import build
from tests.support.oracle import Pair, aspo

ALPHA = 0.3

EMPTY = "a response is empty (chosen is empty)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """`llava`; `adapter`, trained by chance; `full`, the same as a model; `set`, whose row 2 is empty."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("inspect")
    build("llava", folder / "llava")
    model = AutoModelForImageTextToText.from_pretrained(folder / "llava", dtype=torch.float32)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    trained = get_peft_model(model, config)
    trained.save_pretrained(folder / "adapter")
    trained.merge_and_unload().save_pretrained(folder / "full")
    record = {"settings": {"alpha": ALPHA}, "model": str(folder / "llava"), "scorers": []}
    for name in ("adapter", "full"):
        (folder / name / "aspo_run.json").write_text(json.dumps(record))
    rows = data.rows(5, 1, sentences=(2, 5))
    rows[2]["chosen"][0]["content"] = "  "
    rows[2].update(chosen_sentences=[], chosen_similarity=[])
    converted.write(folder / "set", [rows])
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    from dataset_tools.inspect.preview import read_rows

    return [row for _, row in read_rows(folder / "set", {index: [] for index in range(5)})]


def logps(model: Any, processor: Any, row: dict[str, Any], side: str) -> tuple[list[float], list[int]]:
    """Of each token of a response: its log-prob from the model's whole logits, and its sentence."""
    from dataset_tools.images.opening import open_undecoded

    words = row["prompt"][0]["content"].removeprefix("<image>").strip()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
    text = row[side][0]["content"]
    answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    whole = processor.apply_chat_template([*messages, answer], tokenize=False)
    before = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert whole.startswith(before)
    tokens = processor.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    count = len(tokens["input_ids"]) - len(processor.tokenizer(before, add_special_tokens=False)["input_ids"])
    with open_undecoded(row["images"][0]["bytes"]) as image:
        given = processor(images=[image], text=[whole], return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits = model(**given).logits[0, :-1].double().log_softmax(-1)
    ids = given["input_ids"][0, 1:]
    values = logits.gather(1, ids.unsqueeze(1))[-count:, 0].tolist()
    start = whole.index(text, len(before))
    spans = [(span["start"] + start, span["end"] + start) for span in row[f"{side}_sentences"]]
    sentence = []
    for first, last in tokens["offset_mapping"][-count:]:
        # White space before a sentence is its own, what ends the turn the last one's; the template's tokens
        # before the text begin the rejected response, too.
        inside = [k for k, (_, end) in enumerate(spans) if first < end]
        sentence.append(-1 if last <= start else inside[0] if inside else len(spans) - 1)
    return values, sentence


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_numbers_are_those_of_the_models_own_logits(kind: str, folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run = find_run(str(folder / kind))
    assert run == find_run(str(folder / kind), before=str(folder / "llava"), alpha=ALPHA)
    rows = rows_of(folder)
    processor, prepared, refused = prepare(run, rows)
    assert [row["place"] for row in prepared] == [0, 1, 3, 4]
    assert refused == {2: EMPTY}
    seen: list[int] = []
    found = measure(run, processor, prepared, batch_size=3, device="cpu", advance=seen.append)
    assert seen == [3, 1, 3, 1]
    alone = measure(run, processor, prepared, batch_size=1, device="cpu")
    own = AutoProcessor.from_pretrained(folder / "llava")
    models = [
        AutoModelForImageTextToText.from_pretrained(folder / name, dtype=torch.float32).eval()
        for name in ("llava", "full")
    ]
    for row, states, single in zip((rows[i] for i in (0, 1, 3, 4)), found, alone, strict=True):
        (ref_chosen, sentences), (chosen, _) = (logps(model, own, row, "chosen") for model in models)
        (ref_rejected, _), (rejected, _) = (logps(model, own, row, "rejected") for model in models)
        for state, policy, other in (("before", ref_chosen, ref_rejected), ("after", chosen, rejected)):
            pair = Pair(policy, other, ref_chosen, ref_rejected, sentences, row["chosen_similarity"])
            expected = aspo(pair, 1.0, ALPHA, "weight")
            for k, one in enumerate(states[state]):
                mine = [value for value, sentence in zip(policy, sentences, strict=True) if sentence == k]
                base = [value for value, sentence in zip(ref_chosen, sentences, strict=True) if sentence == k]
                assert one["sentence"] == k and one["tokens"] == len(mine)
                assert one["similarity"] == pytest.approx(row["chosen_similarity"][k], abs=1e-6)
                assert one["weight"] == pytest.approx(expected.weights[k], abs=2e-3)
                mean = sum(mine) / len(mine)
                assert one["perplexity"] == pytest.approx(float(torch.tensor(-mean).exp()), rel=1e-3)
                assert one["log_ratio"] == pytest.approx(sum(mine) - sum(base), abs=1e-3)
                margin = expected.chosen_reward - expected.rejected_reward
                assert one["margin"] == pytest.approx(margin, abs=5e-3)
                for name, value in single[state][k].items():
                    assert value == pytest.approx(one[name], rel=1e-3, abs=2e-3), name
        assert any(abs(one["log_ratio"]) > 0.05 for one in states["after"])


def test_one_model_at_a_time_is_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    load, loaded = AutoModelForImageTextToText.from_pretrained, []

    def loading(*args: Any, **options: Any) -> Any:
        assert not [model for model in loaded if model() is not None]
        model = load(*args, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", loading)
    run = find_run(str(folder / "full"))
    processor, prepared, _ = prepare(run, rows_of(folder))
    measure(run, processor, prepared, batch_size=3, device="cpu", advance=lambda _: None)
    assert len(loaded) == 2


def test_weighted_rejected_answers_count_as_in_training(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run = find_run(str(folder / "full"), weight_rejected=True)
    rows = [row for index, row in enumerate(rows_of(folder)) if index != 2]
    processor, prepared, _ = prepare(run, rows)
    found = measure(run, processor, prepared, batch_size=3, device="cpu")
    own = AutoProcessor.from_pretrained(folder / "llava")
    models = [
        AutoModelForImageTextToText.from_pretrained(folder / name, dtype=torch.float32).eval()
        for name in ("llava", "full")
    ]
    unlike = 0.0
    for row, states in zip(rows, found, strict=True):
        (ref_chosen, of), (chosen, _) = (logps(model, own, row, "chosen") for model in models)
        (ref_rejected, other), (rejected, _) = (logps(model, own, row, "rejected") for model in models)
        inside = [t for t, sentence in enumerate(other) if sentence >= 0]
        pair = Pair(
            chosen, [rejected[t] for t in inside], ref_chosen, [ref_rejected[t] for t in inside], of,
            row["chosen_similarity"], [other[t] for t in inside], row["rejected_similarity"],
        )  # fmt: skip
        expected = aspo(pair, 1.0, ALPHA, "weight", weight_rejected=True)
        outside = sum(rejected) - sum(pair.rejected) - sum(ref_rejected) + sum(pair.ref_rejected)
        margin = expected.chosen_reward - expected.rejected_reward - outside
        assert states["after"][0]["margin"] == pytest.approx(margin, abs=5e-3)
        plain = aspo(pair, 1.0, ALPHA, "weight")
        unlike = max(unlike, abs(plain.rejected_reward - expected.rejected_reward))
        values = row["rejected_similarity"]
        low, high = min(values), max(values)
        assert [one["sentence"] for one in states["rejected"]] == list(range(len(values)))
        for one, value in zip(states["rejected"], values, strict=True):
            assert one["weight"] == pytest.approx((high - value) / (high - low), abs=2e-3)
            mine = [t for t, sentence in enumerate(other) if sentence == one["sentence"]]
            ratio = sum(rejected[t] - ref_rejected[t] for t in mine)
            assert one["tokens"] == len(mine) and one["log_ratio"] == pytest.approx(ratio, abs=1e-3)
    assert unlike > 0.02  # else the weights would not matter here

    record = json.loads((folder / "full" / "aspo_run.json").read_text())
    record["settings"]["weight_rejected"] = True
    record["template"] = "vicuna"
    weighted = tmp_path / "weighted"
    weighted.mkdir()
    for file in (folder / "full").iterdir():
        (weighted / file.name).symlink_to(file)
    (weighted / "aspo_run.json").unlink()
    (weighted / "aspo_run.json").write_text(json.dumps(record))
    result = command(weighted, folder / "set", "--html", tmp_path / "page.html", "--device", "cpu")
    page = shown(tmp_path / "page.html")
    assert "the rejected answer weighted too" in page["about"] and "not scored" not in result.stderr
    assert "trained with LLaMA-Factory's `template: vicuna`" in result.stderr
    names = [part["name"] for part in page["rows"][0]["parts"]]
    assert names == ["before training", "after training", "rejected, weighted too"]
    weights = [one["weight"] for one in found[0]["rejected"]]
    assert page["rows"][0]["parts"][2]["values"] == pytest.approx(weights, abs=1e-4)
    assert result.stderr.strip().splitlines()[-1].startswith("next: keep such pairs")


def shown(path: Path) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert block
    return json.loads(block[1])


def command(*arguments: Any, code: int = 0, answer: str | None = None) -> Any:
    from aspo_plugin.cli.inspect import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)
    assert result.exit_code == code, result.output
    return result


def test_the_page_has_both_states_and_the_rows_that_cannot_be_trained(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    result = command(folder / "adapter", folder / "set", "--html", page, "--json", "--device", "cpu")
    assert json.loads(result.stdout) == {"path": str(page), "rows": 5}
    assert f"row 2 cannot be trained, so it has no weights: {EMPTY}" in result.stderr
    found, rows = shown(page), rows_of(folder)
    assert "Weights with alpha 0.3, normalization weight." in found["about"] and found["bounds"] == [0, 1]
    assert found["kinds"] and all(row["images"][0].startswith("data:image/jpeg") for row in found["rows"])
    refused = found["rows"][2]
    assert f"cannot be trained: {EMPTY}" in refused["problems"]
    assert [(part["name"], part["values"]) for part in refused["parts"]] == [
        ("chosen", None),
        ("rejected", None),
    ]
    for row, source in ((found["rows"][i], rows[i]) for i in (0, 1, 3, 4)):
        before, after = row["parts"]
        assert (before["name"], after["name"]) == ("before training", "after training")
        spans = [[span["start"], span["end"]] for span in source["chosen_sentences"]]
        assert before["spans"] == after["spans"] == spans and before["text"] == source["chosen"][0]["content"]
        assert len(row["table"]["rows"]) == len(spans) == len(after["notes"])
        assert row["table"]["rows"][0][2] == f"{source['chosen_similarity'][0]:.4f}"


def test_a_model_alone_and_fewer_rows(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--html", page, "--rows", 2, "--alpha", 1, "--device", "cpu")
    command(folder / "llava", folder / "set", *options)
    found = shown(page)
    assert [row["number"] for row in found["rows"]] == [0, 2] and "alpha 1," in found["about"]
    [part] = found["rows"][0]["parts"]
    assert part["name"] == "weights under llava" and max(part["values"]) == 1 and min(part["values"]) == 0

    command(folder / "llava", folder / "set", *options, "--weighting", "given")
    found = shown(page)
    assert "weighting given" in found["about"]
    numbers = rows_of(folder)[0]["chosen_similarity"]
    assert found["rows"][0]["parts"][0]["values"] == pytest.approx(numbers, abs=1e-4)


def test_the_samples_of_a_run_are_opened(tmp_path: Path) -> None:
    one = {"tokens": 3, "similarity": 0.25, "similarity_scaled": 1.0, "perplexity": 4.5, "weight": 0.75}
    one |= {"perplexity_scaled": 0.5, "coefficient": 1.1, "log_ratio": -0.5, "prompt": "What?"}
    texts = ["A cat.", "It sleeps.", "One."]
    rows = [
        {"step": step, "pair": pair, "sentence": k, "text": texts[k], **one}
        for step in (1, 2)
        for pair, count in ((0, 2), (1, 1))
        for k in range(count)
    ]
    rows[-1]["similarity"] = None
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "aspo_samples.jsonl").write_text(lines + '{"step": 3, "pa')
    command(tmp_path, "--html", tmp_path / "page.html", "--rows", 3)
    found = shown(tmp_path / "page.html")
    assert [row["id"] for row in found["rows"]] == ["step 2, pair 2", "step 2, pair 1", "step 1, pair 2"]
    [part] = found["rows"][1]["parts"]
    assert [part["text"][slice(*span)] for span in part["spans"]] == texts[:2] and part["values"] == [
        0.75
    ] * 2
    assert found["rows"][0]["table"]["rows"] == [["1", "3", "unknown", "4.50", "0.750", "−0.500"]]
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UsageError, match="no file of samples"):
        samples_page(tmp_path / "other.jsonl", 3)


def test_mistakes_are_met_before_a_model_loads(folder: Path, tmp_path: Path) -> None:
    def says(*arguments: Any) -> str:
        return command(*arguments, "--html", tmp_path / "page.html", code=2).stderr.strip()

    assert says(tmp_path).endswith("or train with log_samples.") and "kept no samples" in says(tmp_path)
    assert "holds no model and no adapter" in says(folder, folder / "set")
    assert says("./nothing", folder / "set") == "error: ./nothing does not exist."
    assert "--alpha is 2.0" in says(folder / "adapter", folder / "set", "--alpha", 2)
    assert "aspo.json" in says(folder / "adapter", folder / "llava")
    assert find_run(str(folder / "llava")).settings == AspoSettings()
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("./saves/lava-aspo", "saves/llava-aspo"),
        (
            "saves/lava-aspo",
            "saves/llava-aspo",
        ),  # could be of the Hub, but a run here is called nearly so
        ("save/llava-aspo", None),
        ("sav", None),
        ("models/llava-7b-hf", None),
    ],
)
def test_a_run_that_does_not_exist_is_not_asked_of_the_hub(name, near, tmp_path, monkeypatch):
    (tmp_path / "saves/llava-aspo/checkpoint-10").mkdir(parents=True)
    (tmp_path / "models/llava-1.5-7b-hf").mkdir(parents=True)  # a copy of a model says nothing of its sisters
    monkeypatch.chdir(tmp_path)
    if name.startswith(("save/", "models/")):
        assert find_run(name).before == name
        return
    with pytest.raises(UsageError, match=f"Did you mean {near}" if near else "not a Hub id"):
        find_run(name)
    with pytest.raises(UsageError, match="/nowhere/base does not exist"):
        find_run("owner/name", before="/nowhere/base")


def test_no_code_of_a_model_is_run_or_offered(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    own = own_code.write(tmp_path / "own", ran)
    given = (folder / "set", "--html", tmp_path / "page.html", "--device", "cpu")
    result = command(own, *given, code=2, answer="y\n")
    told = "needs code from its own repository, which is never run"
    assert told in result.stderr and "trust_remote_code" not in result.output and "[y/N]" not in result.output
    run = find_run(str(own))
    processor, prepared, _ = prepare(find_run(str(folder / "llava")), rows_of(folder))
    with pytest.raises(UsageError, match=told):
        measure(run, processor, prepared, device="cpu")
    assert not ran.exists()
