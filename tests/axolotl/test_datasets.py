"""Where the pairs come from: Axolotl's prompt strategies, repeated rows, splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.axolotl import prepared
from tests.support import data

CHOSEN = "A cat sits here. It looks at me. I like it."


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(training, evaluation) of each command that is run."""
    seen: list[Any] = []
    original = prepared.prepared_splits
    monkeypatch.setattr(prepared, "prepared_splits", lambda cfg: seen.append(original(cfg)) or seen[-1])
    return seen


def test_text_sets_through_axolotls_prompt_strategies(
    command: Any, splits: list[Any], models: Path, tmp_path: Path
) -> None:
    """Three strategies with their fields, in training and evaluation sets; repeated rows are left out."""
    from transformers import AutoTokenizer

    intel = [
        {"system": "Be kind.", "question": f"What is {i}?", "chosen": CHOSEN, "rejected": "A dog."}
        for i in (0, 1, 1, 2, 0)
    ]
    chat = [
        {"talk": [{"role": "user", "content": f"And {i}?"}], "good": {"role": "assistant", "content": CHOSEN}}
        | {"bad": {"role": "assistant", "content": "No."}}
        for i in range(3)
    ]
    own = [{"q": f"Why {i}?", "yes": CHOSEN, "no": "Because."} for i in (5, 6)]
    by_template = {
        "type": "chat_template.default",
        "field_messages": "talk",
        "field_chosen": "good",
        "field_rejected": "bad",
    }
    fields = {
        "field_prompt": "q",
        "field_chosen": "yes",
        "field_rejected": "no",
        "prompt_format": "Q: {prompt} A:",
    }
    command(
        "preprocess",
        base_model=str(models / "text"),
        adapter=None,
        lora_target_modules=None,
        chat_template="chatml",
        datasets=[
            {"path": write_rows(tmp_path / "intel.jsonl", intel), "type": "chatml.intel", "split": "train"},
            {"path": write_rows(tmp_path / "chat.jsonl", chat), "split": "train", **by_template},
        ],
        test_datasets=[
            {"path": write_rows(tmp_path / "own.jsonl", own), "type": fields, "split": "train"},
            {"path": write_rows(tmp_path / "again.jsonl", chat[:1]), "split": "train", **by_template},
        ],
        dataset_exact_deduplication=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(models / "text")
    [(train, evaluation)] = splits

    def texts(dataset: Any) -> set[tuple[str, str]]:
        return {
            (
                tokenizer.decode(row["prompt_ids"]).removeprefix(tokenizer.bos_token or ""),
                tokenizer.decode(row["chosen_ids"]),
            )
            for row in dataset
        }

    def turn(role: str, text: str) -> str:
        return f"<|im_start|>{role}\n{text}<|im_end|>\n"

    end = tokenizer.eos_token
    said = CHOSEN + "<|im_end|>" + end * (end != "<|im_end|>")
    ask = "<|im_start|>assistant\n"
    expected = {(turn("system", "Be kind.") + turn("user", f"What is {i}?") + ask, said) for i in range(3)}
    expected |= {(turn("user", f"And {i}?") + ask, said) for i in range(3)}
    assert texts(train) == expected and len(train) == 6
    # The repeated row of the test sets is one of the training set.
    assert texts(evaluation) == {(f"Q: Why {i}? A:", CHOSEN + end) for i in (5, 6)} and len(evaluation) == 2
    assert {max(row["sentence_ids"]) for row in [*train, *evaluation]} == {2}


def test_a_share_of_the_training_set_evaluates(command: Any, splits: list[Any], datasets: Path) -> None:
    """`val_set_size` of two mixed sets: disjoint parts, the same in every run."""
    kinds = {"many": "parquet", "plain.jsonl": "json"}  # what the files are: accepted, and changes nothing
    mixed = [{"path": str(datasets / name), "ds_type": kind} for name, kind in kinds.items()]
    for _ in range(2):
        command("preprocess", datasets=mixed, val_set_size=0.25, dataset_exact_deduplication=True)
    first, second = splits
    ids = [[(*row["prompt_ids"], *row["chosen_ids"]) for row in part] for part in first]
    assert [len(part) for part in ids] == [36, 12]
    assert ids == [[(*row["prompt_ids"], *row["chosen_ids"]) for row in part] for part in second]
    images = [bool(row["images"]) for part in first for row in part]
    assert sum(images) == 24


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence_len": 300},
        {"excess_length_strategy": "truncate"},
        {"aspo": {"alpha": 0.0}},
        {"aspo": {"alpha": 0.5, "similarity_model": "clip"}},
        {"seed": 7},
        {"shuffle_merged_datasets": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"datasets": [{"path": "many", "split": "train[:5]"}]},
    ],
    ids=str,
)
def test_prepared_rows_are_kept_by_all_they_depend_on(
    changes: dict[str, Any], models: Path, datasets: Path
) -> None:
    from axolotl.utils.dict import DictDefault
    from transformers import AutoProcessor

    base = {
        "datasets": [{"path": "many"}], "sequence_len": 512, "seed": 1, "shuffle_merged_datasets": True,
        "aspo": {"alpha": 0.5}, "tokenizer_config": "llava",
    }  # fmt: skip

    def name(processing: Any, **more: Any) -> str:
        cfg = {**base, **more}
        cfg["datasets"] = [{**entry, "path": str(datasets / entry["path"])} for entry in cfg["datasets"]]
        return prepared._prepared_name(DictDefault(cfg), processing, "datasets")

    processing = AutoProcessor.from_pretrained(models / "llava")
    assert name(processing) == name(processing) != name(processing, **changes)
    other = AutoProcessor.from_pretrained(models / "llava")
    other.chat_template += " "
    assert name(other) != name(processing)
    other = AutoProcessor.from_pretrained(models / "llava")
    other.image_processor.size = {"shortest_edge": 28}
    assert name(other) != name(processing)


def test_files_named_apart_are_watched_too(models: Path, datasets: Path, tmp_path: Path) -> None:
    """`path: json` with `data_files`, and a scorer in a folder: with a changed file data is prepared anew."""
    from axolotl.utils.dict import DictDefault
    from transformers import AutoProcessor

    processing = AutoProcessor.from_pretrained(models / "llava")
    file = tmp_path / "rows.jsonl"
    names = []
    for text in ("{}", "{}\n{}"):
        file.write_text(text)
        for files in (str(file), [str(file)], {"train": [str(file)]}):
            cfg = {"datasets": [{"path": "json", "data_files": files}], "sequence_len": 9, "aspo": {}}
            names.append(prepared._prepared_name(DictDefault(cfg), processing, "datasets"))
    assert not set(names[:3]) & set(names[3:])
    scorer = tmp_path / "scorer"
    scorer.mkdir()
    for weights in ("a", "ab"):
        (scorer / "model.safetensors").write_text(weights)
        cfg |= {"aspo": {"similarity_model": str(scorer)}}
        names.append(prepared._prepared_name(DictDefault(cfg), processing, "datasets"))
    assert names[-1] != names[-2]


def test_pairs_that_are_left_out_are_listed(
    train: Any, command: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the run that prepares them, and again by one that finds them prepared."""
    rows, other = data.rows(12, 1, sentences=(3, 5)), data.rows(4, 2)
    rows[3]["images"][0]["bytes"] = rows[3]["images"][0]["bytes"][:200]
    rows[7]["chosen"][0]["content"] = " "
    other[1]["rejected"][0]["content"] = ""
    sets = {name: str(data.write_converted(tmp_path / name, r)) for name, r in (("a", rows), ("b", other))}
    changes = {
        "datasets": [{"path": sets["a"]}],
        "test_datasets": [{"path": sets["b"], "split": "train"}],
        "eval_strategy": "no",
    }
    expected = [
        ("training", sets["a"], 3, rows[3]["id"], "image"),
        ("training", sets["a"], 7, rows[7]["id"], "empty"),
        ("evaluation", f"{sets['b']}, split train", 1, other[1]["id"], "empty"),
    ]
    for run in ("preprocess", "train"):
        output = tmp_path / f"out-{run}"
        command(run, output_dir=str(output), **changes)
        listed = [json.loads(line) for line in (output / "aspo_rejected.jsonl").read_text().splitlines()]
        keys = ("split", "dataset", "row", "id", "reason")
        assert [tuple(record[key] for key in keys) for record in listed] == expected
        assert f"3 pairs are left out, each listed in {output}" in caplog.text
        caplog.clear()
    # Where nothing is left, the list says why.
    for row in rows:
        row["chosen"][0]["content"] = " "
    changes["datasets"] = [{"path": str(data.write_converted(tmp_path / "c", rows))}]
    with pytest.raises(ValueError, match="no pair of .*c can be trained: 12 × a response is empty"):
        command("preprocess", output_dir=str(tmp_path / "none"), **changes)
    assert len((tmp_path / "none" / "aspo_rejected.jsonl").read_text().splitlines()) == 12


def test_options_of_the_config_reach_the_chat_template(
    command: Any, splits: list[Any], models: Path, datasets: Path, tmp_path: Path
) -> None:
    """Axolotl gives them to its own renderer of supervised fine-tuning alone."""
    template = "{{ opening }}{{ closing }}" + (models / "llava" / "chat_template.jinja").read_text()
    texts = [
        {"prompt": [{"role": "user", "content": "And?"}], "chosen": CHOSEN, "rejected": "No."}
        | {"chat_template_kwargs": own}
        for own in ({"closing": "<mine>"}, None)
    ]
    options: dict[str, Any] = {
        "chat_template": "jinja",
        "chat_template_jinja": template,
        "chat_template_kwargs": {"opening": "<open>", "closing": "<close>"},
        "shuffle_merged_datasets": False,
        "aspo": {"alpha": 0.0},
    }
    files = [{"path": str(datasets / "trl")}, {"path": write_rows(tmp_path / "texts.jsonl", texts)}]
    command("preprocess", **options, datasets=files)
    [(train, _)] = splits
    begins = [row["prompt"].partition(">")[2].partition(">")[0] + ">" for row in train]
    assert all(row["prompt"].startswith("<open>") for row in train)
    assert begins == ["<close>"] * (len(train) - 2) + ["<mine>", "<close>"]
    intel = [{"system": "", "question": "Why?", "chosen": CHOSEN, "rejected": "No."}]
    written = {"path": write_rows(tmp_path / "intel.jsonl", intel), "type": "chatml.intel"}
    with pytest.raises(ValueError, match="chat_template_kwargs: .* would change nothing in .*intel"):
        command("preprocess", **options, datasets=[written])


def test_a_strategy_that_axolotl_does_not_have_is_named(command: Any, datasets: Path) -> None:
    with pytest.raises(ValueError, match="type: chatml.intl of datasets is no prompt strategy"):
        command("preprocess", datasets=[{"path": str(datasets / "plain.jsonl"), "type": "chatml.intl"}])
    with pytest.raises(ValueError, match="has images, which `type: chatml.default` of Axolotl would drop"):
        command("preprocess", datasets=[{"path": str(datasets / "many"), "type": "chatml.default"}])
    with pytest.raises(ValueError, match="`type: chatml.intel` of Axolotl reads .question. of .* columns"):
        command("preprocess", datasets=[{"path": str(datasets / "plain.jsonl"), "type": "chatml.intel"}])


def test_only_similarities_where_there_are_none(command: Any, datasets: Path, tmp_path: Path) -> None:
    """`alpha: 1` on texts would train plain DPO; beside scored images, or to evaluate on, they may be."""
    text = {"path": str(data.write_converted(tmp_path / "text", data.rows(4, 6, text_only=True)))}
    with pytest.raises(ValueError, match="`aspo: alpha` is 1.*no training row has one.*plain DPO"):
        command("preprocess", aspo={"alpha": 1}, datasets=[text])
    with pytest.raises(ValueError, match="no number for a sentence.*`aspo: weighting` is given"):
        command("preprocess", aspo={"alpha": 1, "weighting": "given"}, datasets=[text])
    scored = [{"path": str(datasets / "many")}, text]
    command("preprocess", aspo={"alpha": 1}, datasets=scored, test_datasets=[text])


def test_axolotls_own_layout_is_read(command: Any, splits: list[Any], datasets: Path, tmp_path: Path) -> None:
    """`messages`, and answers that are one message each: as it is, and by Axolotl's own strategy where that
    keeps images. Repeated pairs are left out, with images as well."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from aspo_plugin.axolotl import contract

    given = pq.read_table(datasets / "trl" / "train-00000.parquet")
    one = {name: pc.list_element(given[name], 0) for name in ("chosen", "rejected")}
    rows = pa.table({"images": given["images"], "messages": given["prompt"], **one})
    own = tmp_path / "own"
    own.mkdir()
    pq.write_table(pa.concat_tables([rows, rows.slice(2, 1)]), own / "rows.parquet")
    common: dict[str, Any] = {"aspo": {"alpha": 0.0}, "dataset_exact_deduplication": True}
    command("preprocess", **common, datasets=[{"path": str(datasets / "trl")}])
    command("preprocess", **common, datasets=[{"path": str(own)}])
    by_strategy = [{"path": str(own), "type": "chat_template.default"}]
    if contract.strategies_keep_images():
        command("preprocess", **common, datasets=by_strategy)
    else:
        with pytest.raises(ValueError, match="has images, which `type: chat_template.default`"):
            command("preprocess", **common, datasets=by_strategy)
    (expected, _), *others = splits

    def content(dataset: Any) -> list[Any]:
        names = ("prompt", "chosen_ids", "rejected_ids", "sentence_ids")
        return sorted((*(row[n] for n in names), row["images"][0]["bytes"]) for row in dataset)

    assert all(content(train) == content(expected) for train, _ in others) and len(others) >= 1
    assert len(expected) == len(rows)
