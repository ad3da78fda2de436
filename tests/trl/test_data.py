"""Whole datasets: what reaches the collator, what is kept away from it, and what is said about it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from datasets import Dataset, Image, List, load_dataset

from aspo_plugin.trl.datasets import COLUMNS, mixes_images, prepare_dataset
from aspo_plugin.trl.rows import LengthLimit
from tests.support import broken, data

from .conftest import as_dataset


@pytest.fixture(scope="module")
def llava(processing: Any) -> Any:
    return processing("llava")


def test_a_converted_folder_is_read_by_its_name_alone(llava: Any, tmp_path: Any) -> None:
    rows = data.rows(6, sentences=(2, 4))
    folder = data.write_converted(tmp_path / "set", rows)
    prepared = prepare_dataset(load_dataset(str(folder), split="train"), llava, alpha=0.5)
    assert prepared.column_names == ["images", *COLUMNS]
    assert len(prepared) == 6
    for row, source in zip(prepared, rows, strict=True):
        assert row["similarity"] == pytest.approx(source["chosen_similarity"])
        assert max(row["sentence_ids"]) + 1 == len(source["chosen_sentences"])
        # A JPEG that was decoded and encoded again would have other bytes.
        assert [image["bytes"] for image in row["images"]] == [image["bytes"] for image in source["images"]]
    assert prepare_dataset(prepared, llava, alpha=0.5) is prepared


def test_images_of_every_column_type_stay_encoded(llava: Any, tmp_path: Any) -> None:
    rows = data.rows(3)
    files = [tmp_path / row["images"][0]["path"] for row in rows]
    for file, row in zip(files, rows, strict=True):
        file.write_bytes(row["images"][0]["bytes"])
    texts = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}
    encoded = [[row["images"][0]] for row in rows]
    given = [
        Dataset.from_dict({**texts, "images": encoded}).cast_column("images", List(Image())),
        Dataset.from_dict({**texts, "image": [item[0] for item in encoded]}).cast_column("image", Image()),
        Dataset.from_dict({**texts, "images": [[str(file)] for file in files]}),
        Dataset.from_dict({**texts, "image": [str(file) for file in files]}),
    ]
    for dataset in given:
        prepared = prepare_dataset(dataset, llava, alpha=0.0)
        stored = [row["images"][0] for row in prepared]
        read = [item["bytes"] or open(item["path"], "rb").read() for item in stored]
        assert read == [row["images"][0]["bytes"] for row in rows]


def test_selected_and_shuffled_rows_keep_their_images(llava: Any) -> None:
    dataset = as_dataset(data.rows(6)).shuffle(seed=1).select([4, 1])
    prepared = prepare_dataset(dataset, llava, alpha=0.5)
    expected = [row["images"][0]["bytes"] for row in dataset.cast_column("images", List(Image(decode=False)))]
    assert [row["images"][0]["bytes"] for row in prepared] == expected


def test_rows_left_out_are_counted_and_named(llava: Any, caplog: Any) -> None:
    rows = data.rows(5, sentences=2)
    rows[1]["chosen"][0]["content"] = " "
    rows[3]["rejected"][0]["content"] = "An <image>."
    with caplog.at_level(logging.WARNING):
        left_out: list[dict[str, Any]] = []
        prepared = prepare_dataset(as_dataset(rows), llava, alpha=0.5, name="mine", refused=left_out.extend)
    assert [row["images"][0]["bytes"] for row in prepared] == [
        rows[i]["images"][0]["bytes"] for i in (0, 2, 4)
    ]
    assert (
        "mine: 2 of 5 pairs left out (1 × a response is empty (as chosen is empty); 1 × the number of <image>"
        in caplog.text
    )
    assert [(row["dataset"], row["row"], row["id"]) for row in left_out] == [
        ("mine", i, rows[i]["id"]) for i in (1, 3)
    ]
    assert [row["reason"] for row in left_out] == ["empty", "markers"]
    for i, row in zip((1, 3), left_out, strict=True):
        assert rows[i]["prompt"][-1]["content"].startswith(row["prompt"]) and row["prompt"]
        assert rows[i]["chosen"][0]["content"].startswith(row["chosen"])


def test_no_row_left_is_an_error(llava: Any) -> None:
    with pytest.raises(
        ValueError, match="no pair of mine can be trained: 2 × `max_length` would cut image tokens"
    ):
        prepare_dataset(as_dataset(data.rows(2)), llava, alpha=0.5, limit=LengthLimit(10), name="mine")


def test_images_without_similarities_need_alpha_zero_or_a_scorer(llava: Any) -> None:
    unscored = as_dataset(data.rows(3, similarity=False))
    with pytest.raises(ValueError, match="aspo-data score.*aspo_similarity_model.*aspo_alpha` to 0"):
        prepare_dataset(unscored, llava, alpha=0.5)
    assert prepare_dataset(unscored, llava, alpha=0.0)[0]["similarity"] is None
    one = data.rows(3)
    one[0]["chosen_similarity"] = one[2]["chosen_similarity"] = None  # some rows without is fine
    assert prepare_dataset(as_dataset(one), llava, alpha=0.5)[0]["similarity"] is None
    assert len(prepare_dataset(as_dataset(data.rows(3, text_only=True)), llava, alpha=1.0)) == 3


def test_scores_are_made_once_and_kept(model: Any, llava: Any, tmp_path: Any, monkeypatch: Any) -> None:
    import dataset_tools.scoring.scorer
    from aspo_plugin.trl.similarity import dataset_scorer

    rows = data.rows(4, similarity=False, sentences=(2, 4))
    rows.append({**rows[0], "chosen": [{"role": "assistant", "content": " "}], "chosen_sentences": []})
    unscored = as_dataset(rows)
    score = dataset_scorer(str(model("clip")), tmp_path)
    first = prepare_dataset(unscored, llava, alpha=0.5, score=score)
    assert all(-1 <= value <= 1 for row in first for value in row["similarity"]) and len(first) == 4
    assert len({value for row in first for value in row["similarity"]}) > 4
    scorer = dataset_tools.scoring.scorer
    monkeypatch.setattr(scorer, "SentenceScorer", lambda *args, **options: pytest.fail("scored twice"))
    assert prepare_dataset(unscored, llava, alpha=0.5, score=score)["similarity"] == first["similarity"]


def test_another_scorer_or_another_picture_is_scored_anew(model: Any, llava: Any, tmp_path: Any) -> None:
    """Also where the rows are the same: they name the picture by its path."""
    from aspo_plugin.trl.similarity import dataset_scorer

    rows = data.rows(2, similarity=False)
    pictures = [tmp_path / f"{index}.png" for index in range(2)]
    for picture, row in zip(pictures, rows, strict=True):
        picture.write_bytes(row["images"][0]["bytes"])
    texts = {name: [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")}
    dataset = Dataset.from_dict({**texts, "image": list(map(str, pictures))}).cast_column("image", Image())

    def similarities(scorer: str) -> list[list[float]]:
        score = dataset_scorer(str(model(scorer)), tmp_path / "scores")
        return prepare_dataset(dataset, llava, alpha=0.5, score=score)["similarity"]

    first = similarities("clip")
    assert similarities("siglip") != first
    assert similarities("clip") == first
    other = pictures[1].read_bytes()
    pictures[0].write_bytes(other)
    changed = similarities("clip")
    assert changed[0] != first[0] and changed[1] == pytest.approx(first[1], abs=1e-6)
    assert len(list((tmp_path / "scores" / "aspo_similarity").iterdir())) == 2  # one for each scorer


def test_only_rows_without_similarities_are_scored(model: Any, llava: Any, tmp_path: Any) -> None:
    """As in LLaMA-Factory: a set that is scored in part keeps what it has, and broken rows stop nothing."""
    from aspo_plugin.trl.similarity import dataset_scorer

    rows, expected = broken.rows(tmp_path / "files")
    rows[0]["chosen_similarity"] = None
    refused: list[dict[str, Any]] = []
    score = dataset_scorer(str(model("clip")), tmp_path / "scores")
    prepared = prepare_dataset(as_dataset(rows), llava, alpha=0.5, score=score, refused=refused.extend)
    assert {row["id"]: row["reason"] for row in refused} == expected
    scored, *others = prepared["similarity"]
    assert len(scored) == 3 and all(-1 <= value <= 1 for value in scored)
    assert others[0][2] == pytest.approx(0.2) and others[-1] == pytest.approx(rows[-1]["chosen_similarity"])


def test_images_need_a_processor_and_pairs_need_columns(processing: Any) -> None:
    with pytest.raises(ValueError, match="has images, but .* is a tokenizer"):
        prepare_dataset(as_dataset(data.rows(2)), processing("text"), alpha=0.0)
    with pytest.raises(ValueError, match="has no column chosen or rejected; it has text"):
        prepare_dataset(Dataset.from_dict({"text": ["a"]}), processing("text"), alpha=0.0)
    with pytest.raises(ValueError, match="load it whole"):
        prepare_dataset(as_dataset(data.rows(2)).to_iterable_dataset(), processing("text"), alpha=0.0)


def test_images_that_would_go_unseen_stop_the_run(llava: Any, processing: Any) -> None:
    """A column of another name would leave a vision-language model to train on the texts alone."""
    texts = {
        name: [row[name][0]["content"] for row in data.rows(2, text_only=True)]
        for name in ("prompt", "chosen", "rejected")
    }
    for column in ("image_path", "img", "videos"):
        named = Dataset.from_dict({**texts, column: ["a", "b"]})
        with pytest.raises(ValueError, match=f"mine has a column {column}, but images are read"):
            prepare_dataset(named, llava, alpha=0.5, name="mine")
        assert len(prepare_dataset(named, processing("text"), alpha=0.5)) == 2


@pytest.mark.parametrize("column", ["videos", "audio"])
def test_videos_and_sounds_beside_images_stop_the_run(column: str, llava: Any) -> None:
    """What TRL's preference training does not take would be trained on its texts alone."""
    dataset = as_dataset(data.rows(2))
    empty = [[], []] if column == "videos" else [None, None]
    assert len(prepare_dataset(dataset.add_column(column, empty), llava, alpha=0.0)) == 2
    named = dataset.add_column(column, [["a.mp4"], []] if column == "videos" else ["a.wav", None])
    with pytest.raises(ValueError, match=f"mine has {column}, which TRL's preference training does not take"):
        prepare_dataset(named, llava, alpha=0.0, name="mine")


def test_odd_images_refuse_their_row_alone(llava: Any) -> None:
    rows = data.rows(4, 1)
    [image] = rows[0]["images"]
    texts = {name: [row[name] for row in rows[:3]] for name in ("prompt", "chosen", "rejected")}
    nothing = {"bytes": None, "path": None}
    for column, odd in (("images", [None]), ("images", [nothing]), ("images", nothing), ("image", nothing)):
        whole = [image] if isinstance(odd, list) else image
        refused: list[dict[str, Any]] = []
        dataset = Dataset.from_dict({**texts, column: [whole, odd, whole]})
        prepared = prepare_dataset(dataset, llava, alpha=0.0, refused=refused.extend)
        assert [row["images"][0]["bytes"] for row in prepared] == [image["bytes"]] * 2
        assert [(row["row"], row["reason"]) for row in refused] == [(1, "image")]
        assert refused[0]["detail"] == "it has neither bytes nor a path"


def test_a_tokenizer_gets_no_image_column(processing: Any) -> None:
    prepared = prepare_dataset(as_dataset(data.rows(2, text_only=True)), processing("text"), alpha=0.0)
    assert prepared.column_names == list(COLUMNS)


def test_sets_where_only_some_pairs_have_images_are_known(llava: Any, processing: Any) -> None:
    images, text = data.rows(2), data.rows(2, 1, text_only=True)
    for rows, mixed in (([*images, *text], True), (images, False), (text, False)):
        assert mixes_images(prepare_dataset(as_dataset(rows), llava, alpha=0.5)) is mixed
    plain = prepare_dataset(as_dataset(text), processing("text"), alpha=0.5)
    assert mixes_images(plain) is False
