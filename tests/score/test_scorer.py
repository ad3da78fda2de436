"""Similarities against the models' own forward, for each family; windows, equal inputs, bad images."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.scorer import SentenceScorer, identify, middle
from tests.score.encoders import FAMILIES, picture

torch = pytest.importorskip("torch")

SENTENCES = (
    "A red square lies on a white table.",
    "图片中有一只猫。",
    "There are 3 dogs!",
    "Yes.",
    "Él está en la playa, and the blue circle is next to it.",
)


def by_forward(folder: Any, image: bytes, sentences: Sequence[str], **options: Any) -> list[float]:
    """Cosines from `model(**processor(...))` for one image, one sentence at a time: no batching, no padding
    to others."""
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    opened = Image.open(io.BytesIO(image)).convert("RGB")
    cosines = []
    for sentence in sentences:
        batch = processor(text=[sentence], images=[opened], return_tensors="pt", **options)
        with torch.no_grad():
            output = model(**batch)
        cosines.append(torch.cosine_similarity(output.text_embeds, output.image_embeds).item())
    return cosines


def processor_options(name: str) -> dict[str, Any]:
    """How the model card of a family prepares its inputs."""
    options: dict[str, Any] = {}
    if name.startswith("siglip"):
        options = {
            "padding": "max_length",
            "max_length": 64,
            "padding_side": "right",
            "return_attention_mask": False,
        }
    if name == "siglip2":
        # Its processor has the real model's patches as defaults, whatever the image processor says.
        options |= {"patch_size": 8, "max_num_patches": 16}
    return options


@pytest.mark.parametrize("name", FAMILIES)
def test_similarities_equal_the_models_own_forward(name, encoder):
    sentences = [text.lower() for text in SENTENCES] if name.startswith("siglip") else list(SENTENCES)
    images = [picture(1), picture(2, (31, 64), "JPEG")]
    scorer = SentenceScorer(str(encoder(name)), batch_size=2)
    found = list(scorer.score([([image], sentences) for image in images]))
    expected = [by_forward(encoder(name), image, sentences, **processor_options(name)) for image in images]
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert np.ptp(found) > 1e-3, "the tiny model tells nothing apart, so the comparison proves nothing"


def test_siglip_reads_lower_case(encoder):
    scorer = SentenceScorer(str(encoder("siglip")))
    [found] = scorer.score([([picture(1)], ["A Red SQUARE.", "a red square."])])
    assert found[0] == found[1]


def test_a_long_sentence_is_the_mean_of_windows_that_tile_it(encoder):
    scorer = SentenceScorer(str(encoder("clip")))
    words = [f"word{index}" for index in range(90)]
    text = " ".join(words)
    [[whole]] = scorer.score([([picture(1)], [text])])
    assert scorer.counts.windowed_sentences == 1

    def halved(part: str) -> list[str]:
        if len(scorer.encoder.tokenize([part])[0]["input_ids"]) <= scorer.encoder.text_limit:
            return [part]
        return halved(part[: middle(part)].strip()) + halved(part[middle(part) :].strip())

    parts = halved(text)
    assert " ".join(parts).split() == words, "windows must tile the sentence at white space"
    [expected] = scorer.score([([picture(1)], parts)])
    assert len(parts) > 2
    assert whole == pytest.approx(float(np.mean(expected)), abs=1e-6)


@pytest.mark.parametrize("text", ["a" * 4000, "猫" * 700, "😀" * 200, "x" * 300 + " y " + "z" * 300])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_text_without_spaces_is_windowed_too(name, text, encoder):
    scorer = SentenceScorer(str(encoder(name)))
    [[value]] = scorer.score([([picture(1)], [text])])
    assert -1 <= value <= 1 and scorer.counts.windowed_sentences == 1


def test_limits_are_those_of_the_training(encoder):
    limits = {name: SentenceScorer(str(encoder(name))).encoder.text_limit for name in FAMILIES}
    assert limits == {
        "clip": 77, "siglip": 64, "siglip2": 64, "chinese_clip": 52, "altclip": 77, "vision_text": 48,
    }  # fmt: skip


def test_the_best_of_several_images(encoder):
    scorer = SentenceScorer(str(encoder("clip")))
    images = [picture(seed) for seed in range(4)]
    single = list(scorer.score([([image], SENTENCES) for image in images]))
    [several] = scorer.score([(images, SENTENCES)])
    np.testing.assert_allclose(several, np.max(single, axis=0), atol=1e-6)
    assert len(set(np.argmax(single, axis=0))) > 1, "one image wins everywhere, so the maximum is not seen"


def test_equal_images_and_sentences_are_encoded_once(encoder):
    scorer = SentenceScorer(str(encoder("clip")), batch_size=3)
    seen: dict[str, int] = {"texts": 0, "images": 0}
    encode_texts, encode_images = scorer.encoder.encode_texts, scorer.encoder.encode_images

    def texts(tokens):
        seen["texts"] += len(tokens)
        return encode_texts(tokens)

    def images(batch):
        seen["images"] += len(batch["pixel_values"])
        return encode_images(batch)

    scorer.encoder.encode_texts, scorer.encoder.encode_images = texts, images
    pictures = [picture(seed) for seed in range(5)]
    rows = [([pictures[row % 5]], [SENTENCES[row % 3], SENTENCES[(row + 1) % 3]]) for row in range(200)]
    found = list(scorer.score(rows))
    assert seen == {"texts": 3, "images": 5}
    assert found[0] == found[15] and len(found) == 200
    counts = scorer.counts
    assert (counts.rows, counts.images, counts.distinct_images) == (200, 200, 5)
    assert (counts.sentences, counts.distinct_sentences) == (400, 3)


def test_forms_of_an_image_agree(encoder, tmp_path):
    scorer = SentenceScorer(str(encoder("clip")))
    data = picture(3)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    forms = [
        data, path, str(path), Image.open(path),
        {"bytes": data, "path": None}, {"bytes": None, "path": str(path)},
    ]  # fmt: skip
    found = list(scorer.score([([form], SENTENCES) for form in forms]))
    assert all(row == found[0] for row in found) and None not in found[0]


def test_an_unreadable_image_gives_nulls_and_is_counted(encoder):
    scorer = SentenceScorer(str(encoder("clip")), batch_size=2)
    good = picture(1, (200, 200), "JPEG")
    bad = [b"", b"not an image", good[: len(good) // 2], picture(1)[:-30]]
    rows = [([good], ["a"]), *[([image], ["a", "b"]) for image in bad], ([good, bad[1]], ["a"]), ([], ["a"])]
    found = list(scorer.score(rows))
    assert found[0] != [None] and found[1:] == [[None, None]] * 4 + [[None], [None]]
    assert scorer.counts.unreadable_images == 4 and scorer.counts.unscored_rows == 6


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 50), (1, 6000), (6000, 1), (2, 2)])
def test_odd_shapes_are_scored(name, size, encoder):
    scorer = SentenceScorer(str(encoder(name)))
    [[value]] = scorer.score([([picture(1, size)], ["A red square."])])
    assert value is not None and math.isfinite(value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_colour_modes_are_scored(mode, encoder):
    scorer = SentenceScorer(str(encoder("clip")))
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).convert("RGB").convert(mode).save(stream, "TIFF")
    [[value]] = scorer.score([([stream.getvalue()], ["A red square."])])
    assert value is not None


def test_deep_grey_is_not_scored_as_white(encoder):
    """Sixteen bits cut off at 255 would be another picture: such a row gets no similarity."""
    scorer = SentenceScorer(str(encoder("clip")))
    stream = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).convert("L").convert("I;16").save(stream, "TIFF")
    [[value]] = scorer.score([([stream.getvalue()], ["A red square."])])
    assert value is None


def test_a_rotated_photo_is_scored_upright(encoder):
    scorer = SentenceScorer(str(encoder("clip")))
    upright = Image.open(io.BytesIO(picture(5, (64, 32))))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    found = list(scorer.score([([upright], SENTENCES), ([turned.getvalue()], SENTENCES)]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_rows_are_read_a_few_batches_ahead_only(encoder):
    scorer = SentenceScorer(str(encoder("clip")), batch_size=2, threads=1)
    read = 0

    def rows() -> Iterator[tuple[list[bytes], list[str]]]:
        nonlocal read
        for seed in range(400):
            read += 1
            yield [picture(seed)], [f"Sentence {seed}."]

    found = scorer.score(rows())
    next(found)
    assert read <= 20
    found.close()


def test_equal_texts_and_no_images_keep_memory_bounded(encoder):
    """Rows that need nothing new must still come out, not pile up until the input ends."""
    scorer = SentenceScorer(str(encoder("clip")), batch_size=2, threads=1)
    endless = iter(lambda: ([picture(1)], ["Yes."]), None)
    found = scorer.score(endless)
    assert len({tuple(next(found)) for _ in range(100)}) == 1
    found.close()


def test_forgotten_vectors_are_computed_again(encoder, monkeypatch):
    monkeypatch.setattr("dataset_tools.scoring.scorer._REMEMBERED", 2)
    scorer = SentenceScorer(str(encoder("clip")), batch_size=2)
    rows = [([picture(seed % 4)], list(SENTENCES)) for seed in range(12)]
    found = list(scorer.score(rows))
    assert scorer.counts.distinct_images > 4
    np.testing.assert_allclose(found[:4], found[4:8], atol=1e-6)


def test_vectors_that_are_not_finite_are_an_error(encoder):
    scorer = SentenceScorer(str(encoder("clip")))
    scorer.encoder._model.text_projection.weight.mul_(float("nan"))
    with pytest.raises(DataError, match="not finite.*bfloat16"):
        list(scorer.score([([picture(1)], ["A red square."])]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float32])
def test_dtypes(dtype, encoder):
    exact = list(SentenceScorer(str(encoder("clip"))).score([([picture(1)], SENTENCES)]))
    found = list(SentenceScorer(str(encoder("clip")), dtype=dtype).score([([picture(1)], SENTENCES)]))
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_the_thread_setting_is_given_back(encoder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(SentenceScorer(str(encoder("clip"))).score([([picture(1)], ["Yes."])]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_identity_of_a_folder_follows_its_content(encoder, tmp_path):
    import shutil

    one = identify(str(encoder("clip")))
    assert one.model == "clip" and one.revision is None and one.fingerprint
    copy = shutil.copytree(encoder("clip"), tmp_path / "clip")
    assert identify(str(copy)) == one
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert identify(str(copy)) != one
    assert "/" not in str(identify(str(copy)).as_dict())


def test_other_models_are_refused_before_their_weights_are_read(tmp_path):
    from transformers import BertConfig, LlavaConfig

    for config in (BertConfig(), LlavaConfig()):
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        with pytest.raises(UsageError, match=f"is a {config.model_type} model.*openai/clip"):
            identify(str(folder))


def test_mistakes_are_named(encoder, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        identify(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="revision main goes with a Hub id"):
        identify(str(encoder("clip")), "main")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        identify(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="dtype is 'half': choose one of auto, float32"):
        SentenceScorer(str(encoder("clip")), dtype="half")
