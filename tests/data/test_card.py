"""The dataset card: licence, provenance, how to train; its header is YAML that the Hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataset_tools.share.card import license_of, metadata, render
from tests.support.converted import RECORD

COUNTS = {
    "read": 101,
    "rows": 98,
    "rejected": 3,
    "reasons": {"empty chosen": 2, "a | b": 1},
    "sentences": 512,
}
SCORER = {
    "model": "openai/clip-vit-large-patch14-336",
    "revision": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
    "dtype": "float16",
    "rejected": False,
    "counts": {"windowed_sentences": 7},
}


def record(**source: Any) -> dict[str, Any]:
    return {**RECORD, "counts": COUNTS, "scorer": SCORER, "source": {**RECORD["source"], **source}}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, "cc-by-nc-4.0"),
        ({"license": None}, "cc-by-nc-4.0"),
        ({"license": "apache-2.0"}, "cc-by-nc-4.0"),
        ({"license": "cc-by-4.0"}, "cc-by-nc-4.0"),
        ({"license": "cc-by-nc-sa-4.0"}, "cc-by-nc-sa-4.0"),
        (
            {"name": "povid", "location": "YiyangAiLab/POVID_preference_data_for_VLLMs", "license": None},
            "cc-by-4.0",
        ),
        ({"name": "povid", "location": "povid", "license": None}, "unknown"),
        (
            {"location": "me/copy", "source_datasets": ["openbmb/RLAIF-V-Dataset"], "license": "mit"},
            "cc-by-nc-4.0",
        ),
        ({"name": "vlfeedback", "location": "MMInstruction/VLFeedback", "license": None}, "unknown"),
        ({"name": "trl", "location": "trl-lib/rlaif-v", "license": None}, "cc-by-nc-4.0"),
        ({"name": "trl", "location": "me/mine", "license": "mit"}, "mit"),
    ],
)
def test_the_licence_is_the_sources_and_never_a_looser_one(source, expected):
    assert license_of(record(**source)) == expected
    assert metadata(record(**source), ["train"])["license"] == expected


def test_a_licence_that_the_hub_does_not_list():
    header = metadata(record(name="trl", location="me/mine", license="My Licence 1.0"), ["train"])
    assert (header["license"], header["license_name"]) == ("other", "my-licence-1.0")


def test_the_card_says_where_the_data_is_from_and_how_to_train():
    card = render(record(), ["train"], "me/rlaif-v-aspo")
    _, header, body = card.split("---\n", 2)
    parsed = yaml.safe_load(header)
    assert parsed["license"] == "cc-by-nc-4.0" and parsed["size_categories"] == ["n<1K"]
    assert parsed["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert parsed["source_datasets"] == ["openbmb/RLAIF-V-Dataset"]
    for text in (
        RECORD["source"]["revision"],
        "[openbmb/RLAIF-V-Dataset](https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset)",
        "aspo-plugin 0.1.0",
        "blocks and rules around syntok 1.4.4",
        SCORER["model"],
        SCORER["revision"],
        "7 long ones in windows",
        "98 (rows read: 101, refused: 3)",
        "2 x empty chosen; 1 x a &#124; b",
        "aspo-data pull me/rlaif-v-aspo",
        RECORD["source"]["citation"],
        "arXiv:2505.19100",
        "No commercial use",
    ):
        assert text in body, text
    recipes = [yaml.safe_load(block.split("```")[0]) for block in body.split("```yaml\n")[1:]]
    assert recipes[0] == {
        "stage": "aspo",
        "aspo_alpha": 0.5,
        "dataset_dir": "rlaif-v-aspo",
        "dataset": "train",
    }
    assert recipes[1]["rl"] == "aspo" and recipes[1]["aspo"] == {"alpha": 0.5}
    assert recipes[1]["datasets"] == [{"path": "rlaif-v-aspo", "split": "train"}]


def test_an_unscored_local_dataset():
    bare = record(name="jsonl", location="pairs", url=None, revision=None, license=None, citation="")
    card = render({**bare, "scorer": None}, ["validation"], "me/pairs")
    assert "not scored" in card and "aspo_alpha: 0 " in card and "states no licence" in card
    assert "dataset: validation" in card and "source_datasets" not in card and card.count("bibtex") == 1


GENERATED = {
    "source": "openbmb/RLAIF-V-Dataset",
    "revision": "c0ffee",
    "models": {
        "answers": {
            "model": "llava-hf/llava-1.5-7b-hf",
            "revision": "b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        },
        "scorer": {"model": "openai/clip-vit-large-patch14-336"},
    },
    "recipe": {"best_of": 5},
    "sampling": {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 512, "count": 5},
    "seed": 0,
}


def pairs_folder(folder: Path, record: object) -> Path:
    """As `generate` left it before it wrote a card."""
    from dataset_tools.generate.folder import write_shard
    from tests.support import data

    image = {"bytes": data.rows(1)[0]["images"][0]["bytes"], "path": "1.png"}
    row = {"ds_name": "p", "image": image, "question": "What?", "chosen": "A cat.", "rejected": "A dog."}
    rest = {"origin_dataset": "p", "origin_split": "{}", "idx": 0, "image_path": "1.png"}
    (folder / "data").mkdir(parents=True)
    write_shard(folder / "data" / "train-00000-of-00001.parquet", [{**row, **rest}])
    (folder / "generate.json").write_text(json.dumps(record))
    return folder


def converted(source, out):
    from dataset_tools.convert.conversion import Conversion, Settings
    from dataset_tools.dataset.record import read_record

    Conversion(Settings(str(source), out)).run()
    return read_record(out)


def test_generated_pairs_of_a_known_source(tmp_path):
    from dataset_tools.convert.conversion import Conversion, Settings
    from dataset_tools.dataset.record import read_record

    pairs = pairs_folder(tmp_path / "pairs", {**GENERATED, "files": [], "counts": {}})
    Conversion(Settings(str(pairs), tmp_path / "out")).run()
    found = read_record(tmp_path / "out")
    assert found["generated"] == GENERATED and found["source"]["name"] == "pairs"
    card = render(found, ["train"], "me/pairs")
    for text in (
        "license: cc-by-nc-4.0",
        "source_datasets:\n- openbmb/RLAIF-V-Dataset\n",
        "- synthetic",
        "(https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset), revision `c0ffee`",
        "generated by `llava-hf/llava-1.5-7b-hf` (revision `b234b804b114d9e37bb655e11cbbb5f5e971b7a9`), "
        "temperature 1.0, top_p 0.9",
        "the best and the worst of 5 answers to an image, by the similarity of their sentences with it under "
        "`openai/clip-vit-large-patch14-336`",
        "@article{yu2024rlaifv",
    ):
        assert text in card, text


@pytest.mark.parametrize("part", ["data", "data/train-00000-of-00001.parquet"])
def test_the_data_folder_of_generated_pairs(part, tmp_path):
    """Or a file of it: the licence, the sources and the model that wrote the answers lie one level above."""
    pairs = pairs_folder(tmp_path / "pairs", {**GENERATED, "files": [], "counts": {}})
    (pairs / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nsource_datasets: [me/asked]\n---\n")
    whole, found = converted(pairs, tmp_path / "whole"), converted(pairs / part, tmp_path / "out")
    assert found["generated"] == GENERATED and found["counts"]["rows"] == 1
    assert found["source"]["license_from"] == "../README.md"
    assert whole["source"]["license_from"] == "README.md"
    for key in ("name", "location", "license", "source_datasets"):
        assert found["source"][key] == whole["source"][key], key


@pytest.mark.parametrize(
    ("header", "folder", "licence"),
    [
        ("license: mit\nconfigs: [{config_name: default, data_files: data/train-*}]", "data", "mit"),
        ("license: mit\nsdk: gradio", "data", None),  # a Space
        ("license: mit\nbase_model: me/model", "data", None),
        ("title: My project", "data", None),
        ("license: mit", "pairs", None),
    ],
)
def test_a_card_above_counts_where_it_is_of_that_dataset(header, folder, licence, tmp_path):
    made = pairs_folder(tmp_path / "made", None)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").write_text(f"---\n{header}\n---\n")
    (made / "data").rename(tmp_path / "repo" / folder)
    source = converted(tmp_path / "repo" / folder, tmp_path / "out")["source"]
    assert source["license"] == licence and source["location"] == ("repo" if licence else folder)
    assert source["license_from"] == ("../README.md" if licence else None)


@pytest.mark.parametrize(
    "record",
    ["no", [], {"models": {}}, {**GENERATED, "models": {"answers": "x"}}, {"models": 1, "recipe": {}}],
)
def test_another_tools_generate_json_says_nothing(record, tmp_path):
    from dataset_tools.convert.conversion import Conversion, Settings
    from dataset_tools.dataset.record import read_record

    pairs = pairs_folder(tmp_path / "pairs", record)
    Conversion(Settings(str(pairs), tmp_path / "out")).run()
    found = read_record(tmp_path / "out")
    assert found["generated"] is None and license_of(found) == "unknown"


@pytest.mark.parametrize(
    "change",
    [
        {"generated": {"models": {}, "recipe": {}}},
        {"generated": {**GENERATED, "models": {"answers": {"model": "m"}, "scorer": "x"}}},
        {"generated": {**GENERATED, "sampling": "hot"}},
        {"source": {**RECORD["source"], "source_datasets": "me/mine"}},
    ],
)
def test_a_strangers_record_that_no_card_can_be_made_of(change, tmp_path):
    from dataset_tools.dataset.record import read_record
    from dataset_tools.errors import UsageError
    from tests.support import converted, data

    with pytest.raises(UsageError, match="is not as aspo-data writes it"):
        read_record(converted.write(tmp_path / "set", [data.rows(1)], **change))


@pytest.mark.parametrize("layout", ["llamafactory", "trl"])
def test_an_export_keeps_the_licence_and_the_source(layout, tmp_path):
    from dataset_tools.convert.conversion import Conversion, Settings
    from dataset_tools.dataset.record import read_record
    from dataset_tools.share.export import export
    from tests.support import converted, data

    whole = converted.write(tmp_path / "set", [data.rows(4)])
    record = read_record(whole)
    assert license_of(record) == "cc-by-nc-4.0"
    export(whole, tmp_path / "plain", layout)
    Conversion(Settings(str(tmp_path / "plain"), tmp_path / "again")).run()
    assert license_of(read_record(tmp_path / "again")) == "cc-by-nc-4.0"
