"""The dataset card: licence, provenance, how to train; its header is YAML that the Hub reads."""

from __future__ import annotations

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
