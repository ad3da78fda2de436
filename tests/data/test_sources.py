"""Each source's fixture comes out as it must: texts, images and ids exact, defects refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.dataset.schema import arrow_schema, invariants, iter_rows
from dataset_tools.errors import UsageError
from dataset_tools.sources import REGISTRY, Options, source_class
from dataset_tools.sources.pairing import pair_indices
from tests.support.sources import BUILDERS, Fixture, jpeg, vlfeedback_parquet


def convert(fixture: Fixture, out: Path, **settings: object):
    """Convert a fixture the way its own settings say."""
    given = {"source": str(fixture.path), "out": out, **fixture.settings, **settings}
    conversion = Conversion(Settings(**given))
    return conversion, conversion.run()


def listed(out: Path, name: str) -> list[dict[str, str]]:
    path = out / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rejected(out: Path) -> dict[str, str]:
    lines = listed(out, "rejected.jsonl")
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line["reason"] for line in lines}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_row_of_a_source_comes_out_or_is_refused_with_a_reason(name, tmp_path):
    fixture = BUILDERS[name](tmp_path / "source")
    out = tmp_path / "out"
    conversion, tally = convert(fixture, out)

    assert conversion.source.name == fixture.name  # recognised by its columns, where no kind is set
    rows = {row["id"]: row for row in iter_rows(out)}
    assert set(rows) == set(fixture.rows)
    for key, expected in fixture.rows.items():
        row = rows[key]
        assert row["prompt"] == expected.prompt
        assert row["chosen"] == [{"role": "assistant", "content": expected.chosen}]
        assert row["rejected"] == [{"role": "assistant", "content": expected.rejected}]
        assert [image["bytes"] for image in row["images"]] == expected.images
        assert row["untrained_prefix"] == expected.untrained
        assert row["chosen_sentences"][0]["start"] == row["rejected_sentences"][0]["start"]
        assert row["chosen_sentences"][0]["start"] in (expected.untrained, expected.untrained + 1)
        assert row["source"] == (fixture.origin or fixture.path.name)
        assert len(row["chosen_sentences"]) > 1
        assert row["chosen_similarity"] is None
        assert invariants(row) == []

    reasons = rejected(out)
    assert set(reasons) == set(fixture.bad)
    for key, part in fixture.bad.items():
        assert part in reasons[key]
    assert tally.rows == len(rows)
    assert tally.rejected == len(fixture.bad)
    assert dict(tally.skipped) == fixture.skipped
    assert len(listed(out, "left_out.jsonl")) == sum(fixture.skipped.values())
    assert tally.text_only == sum(1 for expected in fixture.rows.values() if not expected.images)
    assert tally.read == tally.kept_rows + tally.refused_rows + tally.left_out_rows
    assert set(conversion.left_files) == set(fixture.left)
    assert all(part in conversion.left_files[name] for name, part in fixture.left.items())
    assert tally.sentences == sum(
        len(row["chosen_sentences"]) + len(row["rejected_sentences"]) for row in rows.values()
    )


def test_best_worst_and_margin_choose_among_completions(tmp_path):
    fixture = BUILDERS["vlfeedback"](tmp_path / "source")
    convert(fixture, tmp_path / "best", options=Options(pairs="best-worst"))
    assert [row["id"] for row in iter_rows(tmp_path / "best")] == ["a-0-2"]
    _, tally = convert(fixture, tmp_path / "wide", options=Options(min_margin=2))
    assert [row["id"] for row in iter_rows(tmp_path / "wide")] == ["a-0-2", "a-1-2"]
    assert tally.skipped["margin below --min-margin"] == 1


def test_pairs_of_four_completions_follow_silkies_recipe():
    assert list(pair_indices([1.0, 3.0, 2.0], "all", 0)) == [(1, 0), (2, 0), (1, 2)]
    assert list(pair_indices([3.0, 3.0], "all", 0)) == ["tie"]
    assert list(pair_indices([3.0, None], "all", 0)) == ["a rating is not a number"]
    assert list(pair_indices([2.0, None, 5.0, 1.0, 5.0], "best-worst", 0)) == [(2, 3)]
    assert list(pair_indices([None, 1.0], "best-worst", 0)) == ["fewer than two completions with a rating"]
    assert list(pair_indices([2.0, 2.0], "best-worst", 0)) == ["tie"]


def test_a_vlfeedback_image_of_several_pairs_is_stored_once_per_row_group(tmp_path):
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    stream = io.BytesIO()
    Image.effect_noise((512, 512), 80).save(stream, "JPEG")
    fixture = vlfeedback_parquet(tmp_path / "source")
    file = next(fixture.path.rglob("*.parquet"))
    rows = [row for row in pq.read_table(file).to_pylist() if row["id"] == "a"]
    rows[0]["image"]["bytes"] = stream.getvalue()
    pq.write_table(pq.read_table(file).slice(0, 0).from_pylist(rows), file)
    convert(fixture, tmp_path / "out")
    data = next((tmp_path / "out" / "data").iterdir())
    assert sum(1 for _ in iter_rows(tmp_path / "out")) == 3
    assert data.stat().st_size < 1.5 * len(stream.getvalue()) + 10_000
    assert jpeg(0) != stream.getvalue()


@pytest.mark.parametrize("name", REGISTRY)
def test_a_source_says_what_it_reads(name):
    kind = source_class(name)
    assert kind.name == name and kind.about and kind.columns
    assert kind.images in ("required", "optional")


def test_an_unknown_source_names_the_known_ones(tmp_path):
    fixture = BUILDERS["povid"](tmp_path)
    with pytest.raises(UsageError, match="rlaif-w is not a known source: choose one of rlaif-v, rlhf-v"):
        Conversion(Settings(str(fixture.path), tmp_path / "out", kind="rlaif-w"))


def test_wrong_columns_name_what_was_found_and_what_was_expected(tmp_path):
    fixture = BUILDERS["povid"](tmp_path)
    with pytest.raises(UsageError) as error:
        Conversion(Settings(str(fixture.path), tmp_path / "out", kind="rlaif-v"))
    assert "no column question, chosen, rejected, origin_dataset" in str(error.value)
    assert "Found: conversations, id, image, rejected_conversations" in str(error.value)
    (tmp_path / "odd.jsonl").write_text('{"alpha": 1, "beta": 2}\n')
    with pytest.raises(UsageError, match="alpha, beta, which no known source has") as error:
        Conversion(Settings(str(tmp_path / "odd.jsonl"), tmp_path / "out"))
    assert "--from jsonl --column prompt=PROMPT" in str(error.value)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train", 3), ("test", 1), ("validation", "no split validation: its files are of test, train")],
)
def test_a_split_is_chosen_by_the_names_of_the_files(split, expected, tmp_path):
    fixture = BUILDERS["trl"](tmp_path / "source")
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            convert(fixture, tmp_path / "out", split=split)
        return
    convert(fixture, tmp_path / "out", split=split)
    assert sum(1 for _ in iter_rows(tmp_path / "out")) == expected
    assert next((tmp_path / "out" / "data").iterdir()).name == f"{split}-00000-of-00001.parquet"


def test_the_written_schema_is_the_defined_one(tmp_path):
    import pyarrow.parquet as pq

    convert(BUILDERS["mmpr"](tmp_path / "source"), tmp_path / "out")
    written = pq.read_schema(next((tmp_path / "out" / "data").iterdir()))
    assert written.equals(arrow_schema(), check_metadata=False)
    assert written.metadata[b"huggingface"] == arrow_schema().metadata[b"huggingface"]
