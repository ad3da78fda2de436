"""The small parts that `convert` is made of: ids, image checks, image paths, markers, invariants."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_tools.convert.ids import IdSet
from dataset_tools.dataset.schema import default_markers, invariants
from dataset_tools.errors import BadRow
from dataset_tools.images.archives import Archive
from dataset_tools.images.store import ImageStore, check_header
from dataset_tools.sources.base import turns
from tests.support.sources import bomb, jpeg, png


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("P" if kind == "GIF" else "RGB").save(stream, kind, **options)
    return stream.getvalue()


def test_the_id_set_finds_every_repetition_within_16_bytes_an_id():
    ids = IdSet()
    for index in range(50_000):
        assert ids.add(f"id-{index}")
    assert len(ids) == 50_000
    assert ids.nbytes <= 16 * len(ids)
    assert not any(ids.add(f"id-{index}") for index in range(0, 50_000, 7))
    assert len(ids) == 50_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_whole_image_passes_and_no_pixel_is_decoded(kind, monkeypatch):
    data = encoded(kind)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    check_header(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.4, 0.9, 0.99])
def test_an_image_cut_short_is_seen(kind, share):
    data = encoded(kind)
    with pytest.raises(BadRow):
        check_header(data[: int(len(data) * share)])


def test_a_jpeg_with_a_thumbnail_is_cut_although_the_thumbnail_ends():
    inner = jpeg(1)
    outer = encoded("JPEG", exif=b"Exif\0\0" + inner)
    assert inner in outer
    check_header(outer)
    with pytest.raises(BadRow, match="cut short"):
        check_header(outer[:-40])


def test_bytes_after_the_end_of_an_image_are_harmless():
    for data in (jpeg(1), png(1), encoded("GIF")):
        check_header(data + b"\0" * 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"no image", "not an image"), (bomb(), "pixels"), (b"\xff\xd8\xff", "not an")],
)
def test_what_is_no_image_says_why(data, reason):
    with pytest.raises(BadRow, match=reason):
        check_header(data)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up.jpg", "a/../../up.jpg", "C:\\a.jpg", "a\\..\\..\\up.jpg", "x\0.jpg"]
)
def test_a_path_that_leaves_the_image_root_is_refused(path, tmp_path):
    (tmp_path / "up.jpg").write_bytes(jpeg(1))
    (tmp_path / "root").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(path.replace("\0", ""), jpeg(1))
    store = ImageStore([tmp_path / "root"], [tmp_path / "a.zip"])
    with pytest.raises(BadRow, match="leaves the image root"):
        store.read(path)


def test_a_folder_or_a_missing_file_is_no_image(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    store = ImageStore([tmp_path])
    for path in ("a.jpg", "b.jpg", ""):
        with pytest.raises(BadRow, match="not found"):
            store.read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wide", [False, True])
def test_an_archive_gives_what_zipfile_gives(method, wide, tmp_path, monkeypatch):
    if wide:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = b"a comment"
        for index in range(300):
            with archive.open(f"图/{index}.jpg", "w", force_zip64=wide) as member:
                member.write(f"{index}|".encode() * (index % 40))
    ours = Archive(path)
    assert len(ours) == 300
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert ours.read(name, 1 << 20) == archive.read(name)
    assert ours.read("图/300.jpg", 1 << 20) is None
    with pytest.raises(zipfile.BadZipFile, match="larger than"):
        ours.read("图/39.jpg", 50)


def test_a_damaged_archive_is_never_read_wrongly(tmp_path):
    path, hurt = tmp_path / "a.zip", tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(3):
            archive.writestr(f"{index}.jpg", jpeg(index))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        hurt.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = Archive(hurt)
            for index in range(3):
                assert found.read(f"{index}.jpg", 1 << 20) in (None, jpeg(index))
        except zipfile.BadZipFile:
            continue
        hurt.write_bytes(whole[:place])
        with pytest.raises(zipfile.BadZipFile):
            Archive(hurt)


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"\0" * 5_000_000)
    data = path.read_bytes().replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match="checksum"):
        Archive(path).read("a.jpg", 1 << 20)


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("<image>\nWhat?", 1, "What?"),
        ("<image>What?", 1, "What?"),
        ("<image>\n<image>\nSame?", 2, "Same?"),
        ("What?\n<image>", 1, "What?\n<image>"),
        ("<image>\nWhat about <image>?", 2, "<image>\nWhat about <image>?"),
        ("<image>\nWhat?", 2, "<image>\nWhat?"),
        ("<image>\nWhat?", 0, "<image>\nWhat?"),
    ],
)
def test_markers_that_only_lead_the_first_turn_are_removed(text, images, expected):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
    assert default_markers(prompt, images)[1]["content"] == expected


def row(**changes: object) -> dict:
    base = {
        "id": "1",
        "images": [],
        "prompt": [{"role": "user", "content": "Q?"}],
        "chosen": [{"role": "assistant", "content": "One. Two."}],
        "rejected": [{"role": "assistant", "content": "Three."}],
        "chosen_sentences": [{"start": 0, "end": 4}, {"start": 5, "end": 9}],
        "rejected_sentences": [{"start": 0, "end": 6}],
        "chosen_similarity": [0.5, None],
        "rejected_similarity": None,
    }
    return {**base, **changes}


def spans(*values: tuple[int, int]) -> list[dict[str, int]]:
    return [{"start": start, "end": end} for start, end in values]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": ""}, "no id"),
        ({"prompt": []}, "empty prompt"),
        ({"prompt": [{"role": "user", "content": " \n"}]}, "empty prompt"),
        ({"prompt": [{"role": "user", "content": "<image>"}], "images": [1]}, "empty prompt"),
        ({"prompt": [{"role": "user", "content": "<image> Q"}]}, "1 literal <image> markers for 0 images"),
        ({"prompt": [{"role": "tool", "content": "Q"}]}, "role 'tool'"),
        ({"prompt": [{"role": "assistant", "content": "Q"}]}, "does not end with a user turn"),
        ({"chosen": []}, "chosen is not exactly one assistant message"),
        ({"rejected": [{"role": "assistant", "content": " "}]}, "empty rejected"),
        ({"rejected": [{"role": "assistant", "content": "One. Two. "}]}, "chosen equals rejected"),
        ({"chosen_sentences": None}, "chosen_sentences is null"),
        ({"chosen_sentences": spans((0, 4), (5, 10))}, "sentence 1 is [5, 10) in a text of 9"),
        ({"chosen_sentences": spans((0, 0), (5, 9))}, "sentence 0 is [0, 0)"),
        ({"chosen_sentences": spans((5, 9), (0, 4))}, "text between 0 and 5 belongs to no sentence"),
        ({"chosen_sentences": spans((0, 6), (5, 9))}, "sentence 1 starts at 5, before the end 6"),
        ({"chosen_sentences": spans((0, 4))}, "text after 4 belongs to no sentence"),
        ({"chosen_sentences": spans((0, 3), (5, 9))}, "text between 3 and 5"),
        ({"chosen_similarity": [0.5]}, "1 values for 2 sentences"),
        ({"chosen_similarity": [0.5, 1.2]}, "outside [-1, 1]"),
        ({"chosen_similarity": [0.5, float("nan")]}, "outside [-1, 1]"),
    ],
)
def test_each_invariant_is_seen_to_be_broken(changes, problem):
    assert invariants(row()) == []
    assert any(problem in found for found in invariants(row(**changes)))


@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["from", "value", "role", "content"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_conversation_is_understood_or_refused(value):
    try:
        messages = turns(value)
    except BadRow:
        return
    assert all(
        set(message) == {"role", "content"} and isinstance(message["content"], str) for message in messages
    )
