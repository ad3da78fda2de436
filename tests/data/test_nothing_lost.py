"""`convert` drops nothing in silence: no file, no image, no row; and takes no wrong picture."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.convert.select import choose, split_of
from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import iter_rows
from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.images.store import ImageStore, check_header
from dataset_tools.share.card import license_of
from dataset_tools.sources import Options
from dataset_tools.sources.markers import with_markers
from tests.support.sources import jpeg, png, user, vlfeedback
from tests.support.sources.base import IMAGE, write_lines

PAIR = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}


def convert(source: Path, out: Path, **settings: Any) -> Conversion:
    conversion = Conversion(Settings(str(source), out, **settings))
    conversion.run()
    return conversion


def refused(out: Path) -> dict[str, str]:
    path = out / "rejected.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["id"]: line["reason"] for line in map(json.loads, lines)}


# Files


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", ("train", "train")),
        ("data/train_prefs-00000-of-00001.parquet", ("train_prefs", "train")),
        ("val/rows.jsonl", ("validation", "validation")),
        ("pairs_test.jsonl.gz", ("test", "test")),
        ("annotations/m3cot_train_extracted.jsonl", None),
        ("instruction_source.jsonl", None),
        ("gpt4-00000-of-00002.parquet", ("gpt4", "gpt4")),
    ],
)
def test_the_split_that_a_name_says(name, split):
    assert split_of(name) == split


def test_a_word_in_one_name_drops_no_other_file():
    names = ["annotations/a.jsonl", "annotations/b_train.jsonl", "annotations/m3cot_train_x.jsonl"]
    [choice] = choose(names, "train", "here")
    assert choice.files == names and choice.left == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["data/train_prefs-00000-of-00001.parquet", "data/train_sft-00000-of-00001.parquet"],
            "--split: train_p",
        ),
        (["battle/train.parquet", "chat/train.parquet"], "several folders: battle, chat"),
        (["gpt4-00000-of-00001.parquet", "human-00000-of-00001.parquet"], "are of gpt4, human"),
    ],
)
def test_splits_and_configs_are_not_mixed(names, message):
    with pytest.raises(UsageError, match=message):
        choose(names, "train", "here")
    [choice] = choose(names, "train", "here", patterns=[names[0]])
    assert choice.files == names[:1] and choice.left == {names[1]: "not among --files"}


def test_the_configs_of_a_card_are_followed(tmp_path):
    card = {
        "configs": [
            {"config_name": "one", "data_files": [{"split": "train", "path": "one/*.parquet"}]},
            {"config_name": "two", "data_files": {"train": "two/*.parquet", "test": ["two_test.parquet"]}},
        ]
    }
    names = ["one/a.parquet", "two/b.parquet", "two_test.parquet", "extra.parquet"]
    with pytest.raises(UsageError, match="name one with --config: one, two"):
        choose(names, "train", "here", card=card)
    [choice] = choose(names, "train", "here", config="two", card=card)
    assert choice.files == ["two/b.parquet"] and choice.left == {
        "one/a.parquet": "of config one",
        "two_test.parquet": "of split test",
        "extra.parquet": "not named by the dataset's card",
    }


def test_files_of_another_layout_are_named(tmp_path):
    write_lines(tmp_path / "set" / "a.jsonl", [PAIR])
    write_lines(tmp_path / "set" / "b.jsonl", [{"id": 1, "source": "x"}])
    conversion = convert(tmp_path / "set", tmp_path / "out")
    assert list(conversion.files) == ["a.jsonl"]
    assert conversion.left_files == {"b.jsonl": "it has no column chosen, rejected of trl"}
    assert read_record(tmp_path / "out")["source"]["files_not_read"] == conversion.left_files
    write_lines(tmp_path / "set" / "c.jsonl", [{"query": "?", "response": "A.", "rejected_response": "B."}])
    with pytest.raises(UsageError, match=r"several layouts \(a.jsonl: trl; c.jsonl: ms-swift\)"):
        Conversion(Settings(str(tmp_path / "set"), tmp_path / "again"))


# Rows


@pytest.mark.parametrize("number_rows", [False, True])
def test_rows_of_a_repeated_id_are_kept_only_when_asked_for(number_rows, tmp_path):
    vlfeedback(tmp_path / "set")
    conversion = convert(tmp_path / "set", tmp_path / "out", number_rows=number_rows)
    assert not any("Q0" in row["prompt"][0]["content"] for row in iter_rows(tmp_path / "out"))
    listed = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert [item["id"] for item in listed if "repeats" in item["reason"]] == ["twice", "twice"]
    convert(tmp_path / "set", tmp_path / "all", number_rows=number_rows, keep_repeated_ids=True)
    kept = [row["id"] for row in iter_rows(tmp_path / "all") if row["prompt"][0]["content"] in ("Q0?", "Q1?")]
    assert kept == ["vlfeedback_80k-5", "vlfeedback_80k-6"]
    assert conversion.record(conversion_tally(tmp_path / "out"))["options"]["keep_repeated_ids"] is False


def conversion_tally(out: Path) -> Any:
    from dataset_tools.convert.tally import Tally

    return Tally.from_dict(read_record(out)["counts"])


def test_a_conversion_without_a_usable_row_blocks_nothing(tmp_path):
    write_lines(tmp_path / "bad.jsonl", [{**PAIR, "chosen": ""}])
    with pytest.raises(DataError, match="no row of 1 could be used") as error:
        convert(tmp_path / "bad.jsonl", tmp_path / "out")
    assert str(tmp_path / "out.rejected.jsonl") in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.rejected.jsonl"]
    mine = tmp_path / "out.left_out.jsonl"
    mine.write_text("of the user's own\n")
    write_lines(tmp_path / "bad.jsonl", [PAIR])
    convert(tmp_path / "bad.jsonl", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out", mine.name]


def test_the_lists_of_two_tries_without_a_usable_row_do_not_mix(tmp_path):
    same = {**PAIR, "rejected": PAIR["chosen"]}
    for number, row in enumerate(({**PAIR, "chosen": ""}, same)):
        write_lines(tmp_path / "bad.jsonl", [{**row, "id": f"try {number}"}])
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "out.rejected.jsonl"))):
            convert(tmp_path / "bad.jsonl", tmp_path / "out")
        [line] = (tmp_path / "out.rejected.jsonl").read_text().splitlines()
        assert json.loads(line)["id"] == f"try {number}"
    earlier = json.dumps({"id": "try 0", "reason": "tie", "row": "bad.jsonl:0"}) + "\n"
    (tmp_path / "out.left_out.jsonl").write_text(earlier)
    with pytest.raises(DataError):
        convert(tmp_path / "bad.jsonl", tmp_path / "out")
    assert not (tmp_path / "out.left_out.jsonl").exists()


def test_nothing_that_is_pushed_names_a_folder_of_this_machine(tmp_path):
    from dataset_tools.share.hub import plan

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(png(1))
    rows = [
        {**PAIR, "id": f"row {n}", "image": str(place / "a.png")}
        for n, place in enumerate((pictures, tmp_path))
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    convert(tmp_path / "rows.jsonl", tmp_path / "out", image_roots=[pictures])
    assert str(tmp_path) in (tmp_path / "out" / "rejected.jsonl").read_text()  # at home, as the row has it
    sent = plan(tmp_path / "out", "me/set")
    assert set(sent.files) == {
        "README.md",
        "aspo.json",
        "dataset_info.json",
        "data/train-00000-of-00001.parquet",
    }
    texts = [
        sent.card,
        *((tmp_path / "out" / name).read_text() for name in ("aspo.json", "dataset_info.json")),
    ]
    [parquet] = (tmp_path / "out" / "data").iterdir()
    table = pq.read_table(parquet)
    texts += [str(table.to_pylist()), str(table.schema.metadata)]
    assert not any(str(tmp_path) in text for text in texts)


def test_resume_notices_another_folder_with_files_of_the_same_names_and_sizes(tmp_path, monkeypatch):
    """While it is unfinished, and when it is whole; the rows may be others, or only the pictures."""

    def made(name: str, answer: str, seed: int) -> Path:
        (tmp_path / name / "set" / "images").mkdir(parents=True)
        picture = png(seed).ljust(300, b"\0")
        (tmp_path / name / "set" / "images" / "a.png").write_bytes(picture)
        rows = [{**PAIR, "id": str(n), "chosen": answer, "image": "images/a.png"} for n in range(3)]
        write_lines(tmp_path / name / "set" / "rows.jsonl", rows)
        for file in (tmp_path / name).rglob("*.*"):
            os.utime(file, ns=(10**18, 10**18))
        return tmp_path / name / "set"

    first, copy = made("first", "Yes, a.", 1), made("copy", "Yes, a.", 1)
    rows, pictures = made("rows", "Yes, b.", 1), made("pictures", "Yes, a.", 1)
    os.utime(pictures / "images" / "a.png", ns=(2 * 10**18, 10**18 + 1))
    with monkeypatch.context() as patch:
        patch.setattr("dataset_tools.dataset.folder.Workplace.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(first, tmp_path / "out")
    for other, named in ((rows, "rows.jsonl"), (pictures, "a picture")):
        with pytest.raises(UsageError, match=f"--resume: {named} of the source has changed"):
            convert(other, tmp_path / "out", resume=True)
    convert(copy, tmp_path / "out", resume=True)
    (pictures / "images" / "a.png").write_bytes(png(2).ljust(301, b"\0"))
    for other in (rows, pictures):
        with pytest.raises(UsageError, match="was made of other files of the same names"):
            convert(other, tmp_path / "out", resume=True)
    convert(copy, tmp_path / "out", resume=True)


def test_images_that_lie_elsewhere_are_asked_for(tmp_path):
    rows = [{**PAIR, "image": name} for name in ("a.png", "b.png")]
    write_lines(tmp_path / "rows.jsonl", rows)
    arguments = ["convert", str(tmp_path / "rows.jsonl"), "--workers", "1"]
    refused = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert refused.exit_code == 1 and "image file not found (2)" in refused.stderr
    assert "--image-root FOLDER" in refused.stderr
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(1))
    half = CliRunner().invoke(
        app, [*arguments, str(tmp_path / "half"), "--image-root", str(tmp_path / "pictures")]
    )
    assert half.exit_code == 1 and half.stderr.rstrip().endswith("or a zip or tar file.")
    assert len(list(iter_rows(tmp_path / "half"))) == 1


def test_an_unknown_layout_proposes_a_command_that_works(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    row = {"question": "What?", "good": PAIR["chosen"], "bad": PAIR["rejected"], "picture": "a.png"}
    write_lines(tmp_path / "rows.jsonl", [row])
    refused = CliRunner().invoke(app, ["convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "new set")])
    assert refused.exit_code == 2
    [line] = [line for line in refused.stderr.splitlines() if line.strip().startswith("aspo-data convert")]
    arguments = shlex.split(line)[1:]
    assert arguments[:3] == ["convert", str(tmp_path / "rows.jsonl"), str(tmp_path / "new set")]
    done = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1].startswith(f"next: aspo-data score '{tmp_path / 'new set'}' ")
    [made] = iter_rows(tmp_path / "new set")
    assert made["images"][0]["bytes"] == png(1) and made["chosen"][0]["content"] == row["good"]


def test_other_shapes_are_read_by_the_lines_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(f"shards/{shard}.tar", "w") as archive:
            for number in range(2 * shard, 2 * shard + 2):
                for ending, body in (("json", json.dumps(PAIR).encode()), ("png", png(number))):
                    member = tarfile.TarInfo(f"{number:04}.{ending}")
                    member.size = len(body)
                    archive.addfile(member, io.BytesIO(body))
    (tmp_path / "rows.json").write_text(json.dumps({"version": 1, "data": [PAIR]}))
    for source in ("shards", "rows.json"):
        refused = CliRunner().invoke(app, ["convert", source, "out"])
        assert refused.exit_code == 2 and '"Other shapes"' in refused.stderr
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text().partition("### Other shapes")[2]
    lines = page.partition("```python\n")[2].partition("```")[0]
    subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True)
    command = page.partition("```bash\n")[2].partition("```")[0].replace("\\\n", " ").split()[1:]
    done = CliRunner().invoke(app, [*command, "--workers", "1"])
    assert done.exit_code == 0, done.output
    rows = list(iter_rows(tmp_path / "OUT"))
    assert [row["images"][0]["bytes"] for row in rows] == [png(number) for number in range(4)]
    assert [row["id"] for row in rows] == [f"{number:04}" for number in range(4)]
    assert rows[0]["chosen"][0]["content"] == PAIR["chosen"]
    [inside] = re.findall(r'`(load_dataset\("json".*?\))`', page)
    lines = f"from datasets import load_dataset\n{inside}.to_parquet('inside.parquet')"
    subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True)
    done = CliRunner().invoke(app, ["convert", "inside.parquet", "inside", "--workers", "1"])
    assert done.exit_code == 0 and len(list(iter_rows(tmp_path / "inside"))) == 1


# Images


@pytest.mark.parametrize(
    "columns",
    [
        {"image_path": "a.png"},
        {"img": "a.png"},
        {"picture": "a.png"},
        {"image_url": "https://example.org/a.png"},
        {"image_0": "a.png"},
        {"image_1": "a.png", "image_2": "b.png"},
        {"file_name": "a.png"},
        {"photo": {"bytes": None, "path": "a.png"}},
        {"anything": "data:image/png;base64,AAAA"},
    ],
)
def test_an_image_column_that_is_not_read_stops_the_conversion(columns, tmp_path):
    write_lines(tmp_path / "rows.jsonl", [{**PAIR, **columns}])
    with pytest.raises(UsageError, match=f"looks like images.*--column images={','.join(columns)}"):
        Conversion(Settings(str(tmp_path / "rows.jsonl"), tmp_path / "out"))


def test_a_column_of_bytes_that_is_not_read_stops_the_conversion(tmp_path):
    table = pa.table(
        {name: [value] for name, value in PAIR.items()} | {"data": pa.array([png(1)], pa.binary())}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="--column images=data"):
        Conversion(Settings(str(tmp_path / "rows.parquet"), tmp_path / "out"))


def test_a_single_row_never_becomes_text_only_by_accident(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    rows = [
        {**PAIR, "images": ["a.png"]},
        {**PAIR, "img": "a.png"},
        {**PAIR, "images": None, "image": "a.png"},
    ]
    rows += [
        {**PAIR, "images": ["a.png", None]},
        {**PAIR, "videos": ["a.mp4"]},
        PAIR,
        {**PAIR, "images": 139},
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    convert(tmp_path / "rows.jsonl", tmp_path / "out")
    assert {row["id"]: len(row["images"]) for row in iter_rows(tmp_path / "out")} == {
        "rows-0": 1,
        "rows-2": 1,
        "rows-5": 0,
    }
    reasons = refused(tmp_path / "out")
    for number, part in (
        (1, "a column looks like one: img"),
        (3, "is null"),
        (4, "a video"),
        (6, "not found: 139"),
    ):
        assert part in reasons[f"rows-{number}"]
    assert read_record(tmp_path / "out")["counts"]["text_only"] == 1


def test_a_number_is_the_name_of_a_file_and_no_place_among_the_pictures(tmp_path):
    pictures = [{"bytes": jpeg(index), "path": None} for index in range(3)]
    table = pa.table(
        {name: [value] * 3 for name, value in PAIR.items()}
        | {"images": [[2], [1], [0]], "thumbnail": pa.array(pictures, IMAGE)}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="image file not found"):
        convert(tmp_path / "rows.parquet", tmp_path / "out")


def test_several_image_columns_are_read_in_order(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
    write_lines(tmp_path / "rows.jsonl", [{**PAIR, "image_1": "a.png", "image_2": "b.png"}])
    options = Options(columns={"images": "image_1,image_2"})
    convert(tmp_path / "rows.jsonl", tmp_path / "out", options=options)
    [row] = iter_rows(tmp_path / "out")
    assert [image["bytes"] for image in row["images"]] == [png(ord("a")), png(ord("b"))]


def test_a_name_that_two_roots_hold_is_read_only_where_both_say_the_same(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(seed))
        (tmp_path / name / "same.png").write_bytes(png(9))
    store = ImageStore([tmp_path / "one", tmp_path / "two"])
    assert store.read("same.png") == png(9)
    with pytest.raises(BadRow, match="several image roots hold another file of this name"):
        store.read("a.png")
    assert store.read(str(tmp_path / "two" / "a.png")) == png(2)
    with pytest.raises(BadRow, match="leaves the image root"):
        store.read("/etc/a.png")


def test_base64_is_never_copied_into_a_list(tmp_path):
    text = "iVBORw0KGgo" + "A" * 4000
    write_lines(
        tmp_path / "rows.jsonl", [{**PAIR, "images": [text]}, {**PAIR, "images": ["x/" * 3000]}, PAIR]
    )
    convert(tmp_path / "rows.jsonl", tmp_path / "out")
    assert len((tmp_path / "out" / "rejected.jsonl").read_bytes()) < 1500


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("<image_1> or <image_2>?", 2, "<image> or <image>?"),
        ("<|image|>What?", 1, "<image>What?"),
        ("What <ImageHere>?", 1, "What <image>?"),
        ("<|vision_start|><|image_pad|><|vision_end|>What?", 1, "<image>What?"),
        ("<image_2> or <image_1>?", 2, None),
        ("<image_1>, again <image_1>?", 1, None),
        ("<|image|>What?", 0, None),
        ("<image> and <image_1>", 2, None),
        ("Plain <image>", 1, "Plain <image>"),
    ],
)
def test_other_placeholders_are_recognised_or_named(text, images, expected):
    if expected is None:
        with pytest.raises(BadRow, match="other placeholders than <image>"):
            with_markers(user(text), images)
    else:
        assert with_markers(user(text), images) == user(expected)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF")])
def test_grey_values_of_more_than_eight_bits_are_refused(mode, kind):
    stream = io.BytesIO()
    Image.new(mode, (8, 8), 300).save(stream, kind)
    with pytest.raises(BadRow, match="more than 8 bits"):
        check_header(stream.getvalue())
    stream = io.BytesIO()
    Image.new("L", (8, 8), 30).save(stream, kind)
    check_header(stream.getvalue())


# Licence


def test_columns_alone_claim_no_licence(tmp_path):
    said = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A. B."}]
    worse = [said[0], {"from": "gpt", "value": "C. D."}]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(1))
    row = {"image": "a.png", "conversations": said, "rejected_conversations": worse}
    write_lines(tmp_path / "set" / "mine.jsonl", [row])
    conversion = convert(tmp_path / "set", tmp_path / "out")
    source = read_record(tmp_path / "out")["source"]
    assert conversion.source.name == source["layout"] == "povid"
    assert source["name"] == "set" and source["citation"] is None and source["license"] is None
    assert license_of(read_record(tmp_path / "out")) == "unknown"
    assert [item["source"] for item in iter_rows(tmp_path / "out")] == ["set"]

    card = "license: other\nlicense_name: my-terms\nsource_datasets:\n- extended|YiyangAiLab/"
    card += "POVID_preference_data_for_VLLMs"
    (tmp_path / "set" / "README.md").write_text(f"---\n{card}\n---\n# Mine\n")
    convert(tmp_path / "set", tmp_path / "copy")
    source = read_record(tmp_path / "copy")["source"]
    assert (
        source["license"] == "my-terms"
        and source["name"] == "povid"
        and "zhou2024povid" in source["citation"]
    )


def test_the_summary_accounts_for_every_row(tmp_path):
    vlfeedback(tmp_path / "set")
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "set"), str(tmp_path / "out"), "--max-bad", "100%", "--workers", "1"]
    )
    assert done.exit_code == 0
    assert "10 rows read: 1 kept, 6 refused, 3 left out; 0 of the written rows have no image" in done.stdout
    assert "read      vlfeedback_80k.jsonl" in done.stderr
    assert "not read  instruction_source.jsonl: not the file of pairs" in done.stderr


def test_a_zip_beside_a_csv_is_found(tmp_path):
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "pics.zip", "w") as archive:
        archive.writestr("a.png", png(1))
    (tmp_path / "set" / "rows.csv").write_text("prompt,chosen,rejected,images\nQ?,A. B.,C. D.,a.png\n")
    convert(tmp_path / "set", tmp_path / "out")
    [row] = iter_rows(tmp_path / "out")
    assert row["images"][0]["bytes"] == png(1)


def test_ids_that_repeat_are_met_with_the_option_that_numbers_rows(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [{**PAIR, "id": "same"}, {**PAIR, "id": "same"}])
    arguments = ["convert", str(tmp_path / "rows.jsonl"), "--workers", "1"]
    half = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert half.exit_code == 1 and "--number-rows" in half.stderr
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "all"), "--number-rows"]).exit_code == 0
