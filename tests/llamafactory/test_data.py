"""From datasets to batches: sentences, refused rows, mixed sets, images as stored."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aspo_plugin.method.sentence_sums import SHARED
from tests.support import backbones, data
from tests.support.pairs import picture

from .conftest import needs_template, write_sets


@pytest.fixture(scope="module")
def load(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The data part of a run: arguments in, the datasets that would be trained on out."""

    def run(dataset_dir: Path, dataset: str, template: str = "llava", **changes: Any) -> dict[str, Any]:
        from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
        from llamafactory.hparams import get_train_args
        from llamafactory.model import load_tokenizer

        from aspo_plugin.llamafactory.arguments import settings_of
        from aspo_plugin.llamafactory.contract import sentence_data
        from aspo_plugin.llamafactory.datasets import SentenceData
        from aspo_plugin.training.refused_rows import RefusedRows

        model_args, data_args, training_args, finetuning_args, _ = get_train_args(
            {
                "stage": "aspo",
                "do_train": True,
                "model_name_or_path": str(models / "llava"),
                "template": template,
                "dataset_dir": str(dataset_dir),
                "dataset": dataset,
                "cache_dir": str(cache),
                "output_dir": str(tmp_path_factory.mktemp("out")),
                "max_steps": 1,
                "report_to": "none",
                **changes,
            }
        )
        tokenizer_module = load_tokenizer(model_args)
        made = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
        refused_rows = RefusedRows(training_args.output_dir)
        sentences = SentenceData(settings_of(finetuning_args), refused_rows, model_args.cache_dir)
        with sentence_data(sentences):
            module = get_dataset(made, model_args, data_args, training_args, stage="rm", **tokenizer_module)
        return {
            **module,
            "counts": sentences.counts,
            "refused_rows": refused_rows,
            **tokenizer_module,
            "template": made,
        }

    return run


def sentences_in(row: dict[str, Any], tokenizer: Any) -> list[str]:
    """The text of each sentence's tokens, without special tokens and outer white space."""
    ids: dict[int, list[int]] = {}
    for token, sentence in zip(row["chosen_input_ids"], row["chosen_sentence_ids"], strict=True):
        if sentence >= 0:
            ids.setdefault(sentence, []).append(token)
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in ids.values()]


def same_sentences(found: list[str], expected: list[str]) -> bool:
    """Equal up to a token that straddles two sentences (". The"): outer words may be with the neighbour."""
    inner = [" ".join(text.split()[1:-1]) for text in expected]
    return len(found) == len(expected) and all(core in text for core, text in zip(inner, found, strict=True))


def told(row: dict[str, Any]) -> list[str]:
    text = row["chosen"][0]["content"]
    return [text[span["start"] : span["end"]] for span in row["chosen_sentences"]]


def test_converted_rows_carry_their_sentences(load: Any, datasets: Path) -> None:
    module = load(datasets, "many")
    expected = data.rows(40, 1, sentences=(3, 5))
    assert len(module["train_dataset"]) == len(expected)
    for row, source in zip(module["train_dataset"], expected, strict=True):
        assert same_sentences(sentences_in(row, module["tokenizer"]), told(source))
        assert row["chosen_similarity"] == pytest.approx(source["chosen_similarity"])
        trained = [i for i, label in enumerate(row["chosen_labels"]) if label != -100]
        assert trained == [i for i, sentence in enumerate(row["chosen_sentence_ids"]) if sentence != -1]
        assert row["images"] == source["images"]  # byte for byte


def test_every_ranking_layout_of_the_host(load: Any, tmp_path: Path) -> None:
    """Rows without annotations are split by our splitter; sets of different layouts mix."""
    rows = data.rows(4, 5, sentences=(2, 4))
    data.write_llamafactory(tmp_path, rows, "sharegpt")
    alpaca = [
        {"instruction": "Say it.", "chosen": " ".join(["One is here.", "Two is there."]), "rejected": "No."}
    ] * 3
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["alpaca"] = {
        "file_name": "alpaca.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    write_sets(tmp_path, {"converted": data.rows(3, 6), "text": data.rows(3, 7, text_only=True)})

    module = load(tmp_path, "text,alpaca,sharegpt,converted", aspo_alpha=0, preprocessing_num_workers=2)
    dataset = module["train_dataset"]
    assert len(dataset) == 13
    found = [sentences_in(row, module["tokenizer"]) for row in dataset]
    assert ["One is here.", "Two is there."] in found
    assert all(any(same_sentences(texts, told(row)) for texts in found) for row in rows)
    assert sum(bool(row["images"]) for row in dataset) == 7


def test_text_rows_before_images(load: Any, tmp_path: Path) -> None:
    """More text-only rows than the writer's first block, then images: types are not guessed."""
    text, pictures = data.rows(1, 8, text_only=True) * 1100, data.rows(2, 9)
    write_sets(tmp_path, {"mixed": [*text, *pictures]})
    module = load(tmp_path, "mixed")
    assert len(module["train_dataset"]) == 1102


def test_several_images_turns_and_a_system_prompt(load: Any, tmp_path: Path) -> None:
    rows = data.rows(3, 10, images_per_prompt=2)
    rows[0]["prompt"] = [
        {"role": "system", "content": "Answer in short sentences."},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "I do. I see it."},
        {"role": "user", "content": "What is it?"},
    ]
    rows[1]["prompt"] = [{"role": "user", "content": "Compare <image> with <image>."}]
    write_sets(tmp_path, {"rich": rows})
    module = load(tmp_path, "rich")
    tokenizer, dataset = module["tokenizer"], module["train_dataset"]
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    per_image = [row["chosen_input_ids"].count(image_token) / 2 for row in dataset]
    assert len(set(per_image)) == 1 and per_image[0] > 1
    first = tokenizer.decode(dataset[0]["chosen_input_ids"])
    assert "Answer in short sentences." in first and "I do. I see it." in first
    assert first.index("Answer in") < first.index("<image>") < first.index("Look.")
    second = tokenizer.decode(dataset[1]["chosen_input_ids"])
    assert second.index("Compare") < second.index("<image>") < second.index("with")
    for row, source in zip(dataset, rows, strict=True):
        assert same_sentences(sentences_in(row, tokenizer), told(source))


def test_images_by_path_are_not_opened(load: Any, tmp_path: Path) -> None:
    """A converted set holds its images: a path in one, which a stranger may have written, opens no file."""
    rows = data.rows(3, 16)
    (tmp_path / "pictures").mkdir()
    for row in rows[:2]:
        [image] = row["images"]
        (tmp_path / "pictures" / image["path"]).write_bytes(image["bytes"])
        image["bytes"] = None
    write_sets(tmp_path, {"paths": rows})
    module = load(tmp_path, "paths", media_dir=str(tmp_path / "pictures"))
    assert len(module["train_dataset"]) == 1
    assert [record["id"] for record in module["refused_rows"].records()] == [row["id"] for row in rows[:2]]


def spoiled() -> list[dict[str, Any]]:
    """Eight rows, of which 1 to 4 cannot be trained on."""
    rows = data.rows(8, 11, sentences=(2, 4))
    rows[1]["rejected"][0]["content"] = "  "
    rows[1]["prompt"][0]["content"] += " It has\u2028 two lines."  # a line break to some, not in JSON lines
    rows[2]["prompt"][0]["content"] += " <image> <image>"
    rows[3]["chosen_similarity"] = rows[3]["chosen_similarity"][:-1]
    rows[4]["images"][0]["bytes"] = rows[4]["images"][0]["bytes"][:150]
    return rows


REFUSED = [
    ("drawn-11-1", "empty"),
    ("drawn-11-2", "markers"),
    ("drawn-11-3", "similarity"),
    ("drawn-11-4", "image"),
]


def told_of(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((record["id"], record["reason"]) for record in records)


def test_refused_rows_are_counted_and_listed(load: Any, tmp_path: Path, warnings: list[str]) -> None:
    """Also where the tokenized rows come from the cache of `datasets`, and where rows were drawn."""
    rows = spoiled()
    write_sets(tmp_path, {"bad": rows, "good": data.rows(3, 15)})
    for _ in range(2):
        module = load(tmp_path, "good,bad", preprocessing_num_workers=2)
        assert module["counts"] == {
            "training": {"rows": 11, "empty": 1, "markers": 1, "similarity": 1, "image": 1}
        }
        assert len(module["train_dataset"]) == 7
        records = module["refused_rows"].records()
        assert told_of(records) == REFUSED
        assert module["refused_rows"].counts() == {"training": {reason: 1 for _, reason in REFUSED}}
        for record in records:
            assert (record["split"], record["dataset"]) == ("training", "bad")
            assert rows[record["row"]]["id"] == record["id"]
            assert rows[record["row"]]["chosen"][0]["content"].startswith(record["chosen"])
            assert record["message"]
        found = {record["reason"]: record for record in records}
        assert found["markers"]["detail"] == "2 <image> markers, 1 images"
        assert "values for" in found["similarity"]["detail"] and found["image"]["detail"]
        assert sum("refused 1 of 11 training rows" in warning for warning in warnings) == 4
        assert sum(str(module["refused_rows"].path) in warning for warning in warnings) == 1
        warnings.clear()

    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["bad"]["num_samples"] = 24  # the host draws rows, each more than once
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    drawn = load(tmp_path, "bad", val_size=0.25)
    assert sum(counted["rows"] for counted in drawn["counts"].values()) == 24
    assert {(r["id"], r["reason"]) for r in drawn["refused_rows"].records()} == set(REFUSED)
    assert all(rows[record["row"]]["id"] == record["id"] for record in drawn["refused_rows"].records())


@pytest.mark.parametrize("workers", [1, 2])
def test_refused_rows_of_a_stream(workers: int, load: Any, tmp_path: Path, warnings: list[str]) -> None:
    """They are met while training, in the workers of a loader and in every epoch, and listed once."""
    from torch.utils.data import DataLoader

    rows = spoiled()
    write_sets(tmp_path, {"bad": rows})
    module = load(tmp_path, "bad", streaming=True, dataloader_num_workers=workers, buffer_size=1)
    loader = DataLoader(module["train_dataset"], num_workers=workers, collate_fn=list, batch_size=2)
    for _ in range(2):
        assert sum(map(len, loader)) == 4
        assert told_of(module["refused_rows"].records()) == REFUSED
    if workers == 1:
        assert all(rows[record["row"]]["id"] == record["id"] for record in module["refused_rows"].records())
    assert len(list(module["train_dataset"])) == 4
    assert sum("ASPO refused 1 training rows so far" in warning for warning in warnings) == 4
    assert all(str(module["refused_rows"].path) in warning for warning in warnings)


def test_a_stream_of_refused_rows_alone(load: Any, tmp_path: Path) -> None:
    rows = spoiled()[1:3]
    write_sets(tmp_path, {"bad": rows})
    with pytest.raises(ValueError, match="no training row is left to train on: see .*aspo_rejected.jsonl"):
        load(tmp_path, "bad", streaming=True, dataloader_num_workers=1, aspo_alpha=0)


def test_length_limit(load: Any, tmp_path: Path) -> None:
    """Responses are cut as the host cuts them; a prompt cut inside its image tokens refuses the row."""
    rows = data.rows(6, 12, sentences=4)
    rows[0]["prompt"][0]["content"] = "Please look very closely at all of it. " * 30
    rows[1]["rejected"][0]["content"] *= 6
    write_sets(tmp_path, {"long": rows})
    whole = load(tmp_path, "long", cutoff_len=4096)
    limit = max(len(row["chosen_input_ids"]) for row in whole["train_dataset"].select(range(1, 6))) - 8
    cut = load(tmp_path, "long", cutoff_len=limit)
    assert cut["counts"]["training"]["rows"] == 6
    image_token = cut["tokenizer"].convert_tokens_to_ids("<image>")
    images = {row["chosen_input_ids"].count(image_token) for row in whole["train_dataset"]}
    assert any(len(row["chosen_input_ids"]) == limit for row in cut["train_dataset"])
    assert any(len(row["rejected_input_ids"]) > limit for row in whole["train_dataset"])
    for row in cut["train_dataset"]:
        assert len(row["chosen_input_ids"]) <= limit and len(row["rejected_input_ids"]) <= limit
        assert {row["chosen_input_ids"].count(image_token)} == images
        count = max(row["chosen_sentence_ids"]) + 1
        assert len(row["chosen_similarity"]) == count <= 4
    with pytest.raises(ValueError, match="6 × `cutoff_len` would cut image tokens"):
        load(tmp_path, "long", cutoff_len=max(images) + 4)


def test_odd_rows_are_refused_one_by_one(load: Any, tmp_path: Path) -> None:
    rows = data.rows(8, 17, sentences=2)
    rows[1]["prompt"].append({"role": "assistant", "content": "Well."})
    rows[2]["chosen"][0]["content"] = None
    rows[3]["rejected"][0]["content"] += " <image>"
    rows[4]["chosen_similarity"][0] = float("inf")
    rows[5]["images"][0]["bytes"] = rows[5]["images"][0]["path"] = None
    rows[2]["chosen_sentences"] = rows[2]["chosen_similarity"] = None
    write_sets(tmp_path, {"odd": rows})
    module = load(tmp_path, "odd")
    reasons = ["turns", "turns", "markers", "similarity", "image"]
    assert told_of(module["refused_rows"].records()) == [
        (f"drawn-17-{i + 1}", r) for i, r in enumerate(reasons)
    ]
    assert len(module["train_dataset"]) == 3


def test_no_room_for_any_token(load: Any, tmp_path: Path) -> None:
    rows = data.rows(3, 18, text_only=True)
    write_sets(tmp_path, {"short": rows})
    with pytest.raises(ValueError, match="3 × `cutoff_len` leaves no room"):
        load(tmp_path, "short", cutoff_len=1)


def test_what_a_template_removes_takes_its_sentences_along() -> None:
    from aspo_plugin.alignment.sentence_ids import AlignmentError
    from aspo_plugin.llamafactory.encode import carried

    assert carried("ab cd", [[0, 5]], "cd") == [(0, 0, 2)]  # one that reaches into what stays
    assert carried("ab cd ef", [[0, 2], [3, 5], [6, 8]], "cd ef") == [(1, 0, 2), (2, 3, 5)]
    with pytest.raises(AlignmentError, match="beyond removing its beginning"):
        carried("ab cd", [[0, 5]], "CD")


def test_a_template_that_rewrites_the_answer(load: Any, tmp_path: Path) -> None:
    """qwen3 adds an empty thinking block, or with enable_thinking: false removes the answer's own."""
    rows = data.rows(2, 13, text_only=True, sentences=3)
    thought = "<think>\nLet me see. It is one.\n</think>\n\n"
    for row in rows[:1]:
        text = row["chosen"][0]["content"]
        spans = [[0, len(thought)]] + [
            [span["start"] + len(thought), span["end"] + len(thought)] for span in row["chosen_sentences"]
        ]
        row["chosen"][0]["content"] = thought + text
        row["chosen_sentences"] = [{"start": a, "end": b} for a, b in spans]
    rows[0]["chosen_similarity"] = [0.11, 0.22, 0.33, 0.44]
    rows[1]["chosen_similarity"] = [0.55, 0.66, 0.77]
    write_sets(tmp_path, {"thinking": rows})
    plain = load(tmp_path, "thinking", template="qwen3")
    assert [max(row["chosen_sentence_ids"]) + 1 for row in plain["train_dataset"]] == [4, 3]
    without = load(tmp_path, "thinking", template="qwen3", enable_thinking=False)
    assert [max(row["chosen_sentence_ids"]) + 1 for row in without["train_dataset"]] == [3, 3]
    tokenizer = without["tokenizer"]
    expected = told(data.rows(2, 13, text_only=True, sentences=3)[0])
    assert same_sentences(sentences_in(without["train_dataset"][0], tokenizer), expected)
    # A similarity stays with its sentence where one before it was removed.
    for module, expected in (
        (plain, [[0.11, 0.22, 0.33, 0.44], [0.55, 0.66, 0.77]]),
        (without, [[0.22, 0.33, 0.44], [0.55, 0.66, 0.77]]),
    ):
        found = [row["chosen_similarity"] for row in module["train_dataset"]]
        assert [pytest.approx(values) for values in expected] == found


@pytest.mark.parametrize("template", ["qwen3_vl", "qwen3_5"])
def test_an_empty_thinking_block_belongs_to_no_sentence(template: str, load: Any, tmp_path: Path) -> None:
    """Both responses begin with it, so that it must cancel as in DPO; a thought of its own is text."""
    needs_template(template)
    rows = data.rows(3, 13, text_only=True, sentences=3)
    rows[1]["rejected"][0]["content"] = "<think>\nHm.\n</think>\n\n" + rows[1]["rejected"][0]["content"]
    rows[1]["rejected_sentences"] = rows[1]["rejected_similarity"] = None
    write_sets(tmp_path, {"thinking": rows})
    model = str(backbones.build("qwen3_vl", tmp_path / "model"))
    module = load(tmp_path, "thinking", template=template, model_name_or_path=model)
    tokenizer = module["tokenizer"]
    block = "<think>\n\n</think>\n\n"
    for number, row in enumerate(module["train_dataset"]):
        ids = row["chosen_sentence_ids"]
        tokens = [token for token, i in zip(row["chosen_input_ids"], ids, strict=True) if i == SHARED]
        shared = tokenizer.decode(tokens)
        assert block.startswith(shared) and shared.startswith("<think>\n")
        assert (shared == block) == (number != 1)
        if number != 1:
            assert same_sentences(sentences_in(row, tokenizer), told(rows[number]))
    with pytest.raises(ValueError, match="3 × `cutoff_len` leaves no room"):
        load(tmp_path, "thinking", template=template, model_name_or_path=model, cutoff_len=4)


def photograph(turned: bool = False) -> bytes:
    """A JPEG that decoding and encoding again changes: noise over a gradient, subsampled colours."""
    from PIL import Image

    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 96)[None, :, None] + generator.normal(0, 30, (72, 96, 3))
    stream = io.BytesIO()
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6  # stored sideways, as telephones do
    Image.fromarray(ramp.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(("formatting", "turned"), [("aspo", False), ("sharegpt", False), ("aspo", True)])
def test_a_jpeg_reaches_the_processor_as_stored_and_upright(
    formatting: str, turned: bool, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset, Features, Image, Value
    from llamafactory.data.mm_plugin import BasePlugin
    from PIL import Image as Pictures
    from PIL import ImageOps

    from aspo_plugin.llamafactory.collator import SentencePairCollator

    jpeg = photograph(turned)
    [row] = data.rows(1, 14)
    row["images"] = [{"bytes": jpeg, "path": "photo.jpg"}]
    if formatting == "aspo":
        write_sets(tmp_path, {"photo": [row]})
    else:
        turn = {"from": Value("string"), "value": Value("string")}
        features = {"conversations": [turn], "chosen": turn, "rejected": turn, "images": [Image()]}
        example = {
            "conversations": [{"from": "human", "value": "<image>What is it?"}],
            "chosen": {"from": "gpt", "value": row["chosen"][0]["content"]},
            "rejected": {"from": "gpt", "value": row["rejected"][0]["content"]},
            "images": row["images"],
        }
        Dataset.from_list([example], features=Features(features)).to_parquet(str(tmp_path / "photo.parquet"))
        columns = {"messages": "conversations", **{name: name for name in ("chosen", "rejected", "images")}}
        info = {"file_name": "photo.parquet", "formatting": "sharegpt", "ranking": True, "columns": columns}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"photo": info}))
    module = load(tmp_path, "photo", aspo_alpha=0)
    seen: list[np.ndarray] = []
    original = BasePlugin._preprocess_image

    def look(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(np.asarray(image))
        return original(self, image, *args, **kwargs)

    monkeypatch.setattr(BasePlugin, "_preprocess_image", look)
    collator = SentencePairCollator(
        template=module["template"], tokenizer=module["tokenizer"], processor=module["processor"]
    )
    collator([module["train_dataset"][0]])
    stored = np.asarray(ImageOps.exif_transpose(Pictures.open(io.BytesIO(jpeg))))
    assert stored.shape[:2] == ((96, 72) if turned else (72, 96))
    assert seen and all(np.array_equal(pixels, stored) for pixels in seen)


def test_plain_dpo_trains_on_a_converted_folder(train: Any, tmp_path: Path) -> None:
    """`formatting: aspo` serves every stage, and its images stay as stored there too."""
    from llamafactory.data import loader

    log = train(stage="dpo", tokenized_path=str(tmp_path / "tokens"))
    assert [entry["step"] for entry in log] == [1, 2]
    dataset = loader.load_from_disk(str(tmp_path / "tokens"))["train"]
    assert dataset[0]["images"][0]["bytes"] == data.rows(40, 1, sentences=(3, 5))[0]["images"][0]["bytes"]


def test_images_are_processed_once_only_where_a_plugin_says_no_more() -> None:
    """MiniCPM-V also tells which row each image belongs to; its call is passed on as it is."""
    from aspo_plugin.llamafactory.collator import processed_once

    calls = []

    def process(images: Any, videos: Any, audios: Any, processor: Any, **options: Any) -> dict[str, Any]:
        calls.append((len(images), options))
        return {"pixel_values": list(images)}

    picture = object()
    once = processed_once(process)
    assert once([picture] * 2, [], [], None) == {"pixel_values": [picture] * 2}
    assert once([picture] * 2, [], [], None, valid_image_nums_ls=[1, 1]) == {"pixel_values": [picture] * 2}
    assert calls == [(1, {}), (2, {"valid_image_nums_ls": [1, 1]})]


def test_media_of_a_video_set(load: Any, tmp_path: Path) -> None:
    """Markers of videos are counted, a cut never goes through one, and what cannot be read costs its row."""
    model = str(backbones.build("qwen2_5_vl", tmp_path / "model"))
    frames = []
    for seed in range(4):
        frames.append(str(tmp_path / f"{seed}.png"))
        picture(seed, 64, 64).save(frames[-1])
    row = {
        "conversations": [{"from": "human", "value": "<video>What happens here?"}],
        "chosen": {"from": "gpt", "value": "A dog runs. It is brown."},
        "rejected": {"from": "gpt", "value": "Nothing happens at all."},
        "images": [],
        "videos": [frames],
    }
    unmarked = {**row, "conversations": [{"from": "human", "value": "What happens here?"}]}
    rows = [row, unmarked, {**row, "videos": []}, {**row, "videos": [[str(tmp_path / "none.png")]]}]
    (tmp_path / "video.json").write_text(json.dumps(rows))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "video.json", "ranking": True, "formatting": "sharegpt"}
    entry["columns"] = {**columns, "images": "images", "videos": "videos"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"video": entry}))
    options = {"template": "qwen2_vl", "model_name_or_path": model, "aspo_alpha": 0}
    module = load(tmp_path, "video", **options)
    [trained] = module["train_dataset"]
    assert trained["videos"] == [frames]
    records = {record["row"]: record for record in module["refused_rows"].records()}
    assert [records[number]["reason"] for number in (1, 2, 3)] == ["markers", "markers", "media"]
    assert records[1]["detail"] == "0 <video> markers, 1 videos"
    assert records[2]["detail"] == "1 <video> markers, 0 videos"
    longest = len(trained["chosen_input_ids"])
    token = module["tokenizer"].convert_tokens_to_ids("<|video_pad|>")
    assert trained["chosen_input_ids"].count(token) >= 4
    with pytest.raises(ValueError, match="would cut tokens of a video or a sound.*video_maxlen"):
        load(tmp_path, "video", **options, cutoff_len=longest // 2)


def test_an_aspo_folder_may_hold_videos(load: Any, tmp_path: Path) -> None:
    """`formatting: aspo` with a `videos` column: a marker is never trained as a literal text."""
    row = data.rows(1, 3, text_only=True)[0]
    row["prompt"][0]["content"] = "<video>" + row["prompt"][0]["content"]
    write_sets(tmp_path, {"marked": [row]})
    with pytest.raises(ValueError, match="1 <video> markers, 0 videos"):
        load(tmp_path, "marked")
