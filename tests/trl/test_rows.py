"""One pair at a time: shapes it may have, what is refused, where the length limit cuts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.method.sentence_sums import SHARED
from aspo_plugin.training.image_check import readable_size
from aspo_plugin.training.refusals import RefusedRow, StopRun
from aspo_plugin.trl.rows import LengthLimit, RowPreparer
from tests.support import data


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def answer(content: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content}]


CHOSEN = "A cat sits here. It looks at me. I like it."
ROW = {"prompt": user("What is it?"), "chosen": answer(CHOSEN), "rejected": answer("A dog.")}
PARTS = {
    "prompt": user([{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]),
    "chosen": answer([{"type": "text", "text": CHOSEN}]),
    "rejected": answer([{"type": "text", "text": "A dog."}]),
}
IMPLICIT = {
    "chosen": user("What is it?") + answer(CHOSEN),
    "rejected": user("What is it?") + answer("A dog."),
}


@pytest.fixture(scope="module")
def images() -> list[dict[str, Any]]:
    return data.rows(1)[0]["images"]


@pytest.fixture(scope="module")
def llava(processing: Any) -> Any:
    return processing("llava")


@pytest.fixture(scope="module")
def text(processing: Any) -> Any:
    return processing("text")


def prepare(processing: Any, row: dict[str, Any], images: Any = (), **limit: Any) -> dict[str, Any]:
    return RowPreparer(processing, LengthLimit(**limit))(row, images)


def sentences(processing: Any, prepared: dict[str, Any]) -> list[str]:
    tokenizer = getattr(processing, "tokenizer", processing)
    ids, tokens = prepared["sentence_ids"], prepared["chosen_ids"]
    return [
        tokenizer.decode([t for t, i in zip(tokens, ids, strict=True) if i == n]).strip()
        for n in range(max(ids) + 1)
    ]


@pytest.mark.parametrize(
    "row",
    [
        PARTS,
        {**ROW, "prompt": user("<image>What is it?")},
        {**ROW, "prompt": user("<image>\nWhat is it?")},
        ROW,
    ],
    ids=["parts", "marker", "marker and newline", "no marker"],
)
def test_the_same_pair_in_every_shape_is_prepared_alike(row: Any, llava: Any, images: Any) -> None:
    assert prepare(llava, row, images) == prepare(llava, ROW, images)


def test_an_implicit_prompt_and_a_single_message_are_read(text: Any) -> None:
    single = {**ROW, "chosen": answer(CHOSEN)[0], "rejected": answer("A dog.")[0]}
    assert prepare(text, IMPLICIT) == prepare(text, ROW) == prepare(text, single)


def test_the_sentences_partition_the_response_with_its_end_of_turn(text: Any) -> None:
    prepared = prepare(text, ROW)
    assert len(prepared["sentence_ids"]) == len(prepared["chosen_ids"])
    first, second, third = sentences(text, prepared)
    assert (first, second) == ("A cat sits here.", "It looks at me.")
    assert third.startswith("I like it.") and len(third) > len("I like it.")


@pytest.mark.parametrize("prompt", ["", "<think>\n"])
def test_an_empty_thinking_block_belongs_to_no_sentence(prompt: str, processing: Any) -> None:
    """As Qwen3's and Qwen3.5's templates open an answer: both responses have it, so it must cancel."""
    text = copy.deepcopy(processing("text"))
    text.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + prompt + "{% endif %}"
    )
    prepared = prepare(text, ROW)
    ids = prepared["sentence_ids"]
    count = ids.count(SHARED)
    assert (
        ids[:count] == [SHARED] * count and prepared["rejected_ids"][:count] == prepared["chosen_ids"][:count]
    )
    block = text.decode(prepared["chosen_ids"][:count])
    assert block.strip() == ("</think>" if prompt else "<think>\n\n</think>")
    assert sentences(text, prepared)[0] == "A cat sits here."
    with pytest.raises(RefusedRow, match="leaves no room .*tokens hold no text of the chosen response"):
        prepare(text, ROW, max_length=len(prepared["prompt_ids"]) + count)


def test_given_spans_win_over_the_splitter(text: Any) -> None:
    spans = [{"start": 0, "end": 16}, {"start": 17, "end": len(CHOSEN)}]
    assert len(sentences(text, prepare(text, {**ROW, "chosen_sentences": spans}))) == 2


def test_a_plain_pair_is_trained_as_it_stands(text: Any) -> None:
    row = {"prompt": "Question: what? ", "chosen": CHOSEN, "rejected": "A dog."}
    prepared = prepare(text, row)
    assert prepared["prompt"] == row["prompt"]
    assert text.decode(prepared["chosen_ids"]) == CHOSEN + text.eos_token
    ended = prepare(text, {**row, "chosen": CHOSEN + text.eos_token})
    assert ended == prepared


def test_markers_keep_their_place_between_texts(processing: Any, images: Any) -> None:
    row = {**ROW, "prompt": user("Look: <image> What is it?")}
    prepared = prepare(processing("qwen2_vl"), row, images)
    assert (
        prepared["prompt"].index("Look")
        < prepared["prompt"].index("<|image_pad|>")
        < prepared["prompt"].index("What")
    )


@pytest.mark.parametrize(
    ("row", "has_image", "reason"),
    [
        ({**ROW, "chosen": answer("  ")}, True, "chosen is empty"),
        ({**ROW, "rejected": []}, True, "an empty list"),
        ({**ROW, "chosen": answer("a") + answer("b")}, True, "chosen is not exactly one assistant message"),
        ({**ROW, "chosen": user("a")}, True, "chosen is not exactly one assistant message"),
        ({**ROW, "chosen": answer("An <image> here.")}, True, "chosen holds a literal <image>"),
        ({**ROW, "chosen": answer("An <image> here.")}, False, "an image token where there is no image"),
        ({**ROW, "prompt": user("<image> and <image>")}, True, "2 <image> markers, 1 images"),
        ({**ROW, "prompt": user("<image>?")}, False, "1 <image> markers, 0 images"),
        (PARTS, False, "a message holds an image of its own"),
        ({**ROW, "prompt": user([{"type": "image", "path": "a.png"}])}, True, "an image of its own"),
        (
            {**ROW, "prompt": user([{"type": "image_url", "image_url": {}}])},
            True,
            "other than text and images",
        ),
        ({**ROW, "prompt": user([{"type": "video", "video": "a.mp4"}])}, True, "other than text and images"),
        (
            {**ROW, "prompt": [{"from": "human", "value": "Hi"}]},
            True,
            "column prompt is a list of a dictionary with the keys from, value, not a text",
        ),
        ({**ROW, "prompt": None}, True, "there is no prompt"),
        (
            {"prompt": None, "chosen": "The cat sits.", "rejected": "The dog."},
            False,
            "there is no prompt",
        ),
        ({**ROW, "prompt": "plain", "chosen": "a", "rejected": "b"}, True, "the prompt is a plain text"),
        ({**ROW, "prompt": user(None)}, True, "a message without content"),
    ],
)
def test_rows_that_cannot_be_trained_are_refused(
    row: Any, has_image: bool, reason: str, llava: Any, images: Any
) -> None:
    with pytest.raises(RefusedRow, match=reason):
        prepare(llava, row, images if has_image else [])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"chosen_sentences": [{"start": 0, "end": 999}]}, r"\[0, 999\) in a response of 43 characters"),
        ({"chosen_sentences": [{"start": 5, "end": 9}, {"start": 3, "end": 12}]}, r"\[3, 12\)"),
        ({"chosen_similarity": [0.1]}, "1 values for 3 sentences"),
        ({"chosen_similarity": [0.1, float("inf"), 0.2]}, "an infinite value"),
    ],
)
def test_annotations_that_contradict_the_text_refuse_the_row(extra: Any, message: str, text: Any) -> None:
    with pytest.raises(RefusedRow, match=message) as caught:
        prepare(text, {**ROW, **extra})
    assert caught.value.reason == ("sentences" if "chosen_sentences" in extra else "similarity")


def test_a_response_that_the_template_rewrites_is_refused(processing: Any, text: Any) -> None:
    import copy

    rewriting = copy.deepcopy(text)
    rewriting.chat_template = (
        "{% for m in messages %}"
        "{{ m.content | upper if m.role == 'assistant' else m.content + ': ' }}"
        "{% endfor %}"
    )
    with pytest.raises(RefusedRow, match="the template rewrites the response"):
        prepare(rewriting, ROW)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}",  # fails on parts
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}",  # writes Python
    ],
)
def test_a_chat_template_for_texts_is_refused_for_images(template: str, llava: Any) -> None:
    import copy

    given = copy.copy(llava)
    given.chat_template = template
    with pytest.raises(ValueError, match="takes plain texts only, no messages with images"):
        RowPreparer(given, LengthLimit())


def test_no_chat_template_says_what_to_do(text: Any) -> None:
    import copy

    bare = copy.deepcopy(text)
    bare.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        prepare(bare, ROW)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "llava_next", "idefics3"])
def test_the_counted_length_is_that_of_the_processor(name: str, processing: Any) -> None:
    """Room for exactly as many response tokens as the expanded prompt leaves."""
    processor = processing(name)
    for width, height in ((72, 56), (56, 112), (90, 30)):
        images = data.rows(1, size=(width, height), images_per_prompt=1)[0]["images"]
        whole = prepare(processor, ROW, images)
        expanded = expanded_length(processor, whole["prompt"], images)
        kept = prepare(processor, ROW, images, max_length=expanded + 7)
        assert len(kept["chosen_ids"]) == min(7, len(whole["chosen_ids"]))
        assert kept["sentence_ids"] == whole["sentence_ids"][:7]
        short = prepare(processor, ROW, images, max_length=expanded + 2)
        assert len(short["chosen_ids"]) == len(short["rejected_ids"]) == 2
        assert kept["prompt_ids"] == whole["prompt_ids"]
        with pytest.raises(RefusedRow, match="image tokens take .* of"):
            prepare(processor, ROW, images, max_length=expanded)
        with pytest.raises(RefusedRow, match="by .* tokens of"):
            prepare(processor, ROW, images, max_length=expanded + 7, strategy="drop")
        with pytest.raises(StopRun, match="image tokens included"):
            prepare(processor, ROW, images, max_length=expanded + 7, strategy="raise")


def expanded_length(processor: Any, prompt: str, images: Any) -> int:
    from dataset_tools.scoring.scorer import open_image

    decoded = [[open_image(image) for image in images]]
    return len(processor(images=decoded, text=[prompt], add_special_tokens=False)["input_ids"][0])


def test_similarities_of_sentences_cut_off_are_dropped(text: Any) -> None:
    row = {**ROW, "chosen_similarity": [0.1, None, 0.3]}
    whole = prepare(text, row)
    assert whole["similarity"] == [0.1, None, 0.3]
    room = len(whole["prompt_ids"]) + whole["sentence_ids"].index(1) + 1
    assert prepare(text, row, max_length=room)["similarity"] == [0.1, None]


@pytest.mark.parametrize("strategy", ["drop", "raise", "truncate"])
@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_the_longer_of_both_responses_counts(longer: str, strategy: str, text: Any) -> None:
    row = {**ROW, longer: answer(CHOSEN * 3)}
    whole = prepare(text, row)
    size = len(whole["prompt_ids"]) + max(len(whole[f"{name}_ids"]) for name in ("chosen", "rejected"))
    assert prepare(text, row, max_length=size, strategy=strategy) == whole
    if strategy == "truncate":
        cut = prepare(text, row, max_length=size - 1, strategy=strategy)
        assert cut[f"{longer}_ids"] == whole[f"{longer}_ids"][:-1]
    else:
        with pytest.raises(ValueError, match="tokens longer|by 1 tokens of"):
            prepare(text, row, max_length=size - 1, strategy=strategy)


def test_the_size_of_a_turned_photograph_is_that_of_its_pixels() -> None:
    from io import BytesIO

    from PIL import Image

    from dataset_tools.scoring.scorer import open_image

    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    image = {"bytes": stream.getvalue(), "path": None}
    assert readable_size(image) == open_image(image).size == (20, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_an_image_cut_behind_its_header_refuses_its_row(kind: str, llava: Any, tmp_path: Path) -> None:
    """Also one of several, and one in a file: without the whole check it would break a batch in training."""
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(stream, kind)
    whole = stream.getvalue()
    assert prepare(llava, ROW, [{"bytes": whole, "path": None}])["chosen_ids"]
    cut = whole[: len(whole) * 2 // 3]
    (tmp_path / "cut").write_bytes(cut)
    with Image.open(tmp_path / "cut") as opened:
        assert opened.size == (64, 48)
    for image in ({"bytes": cut, "path": None}, {"bytes": None, "path": str(tmp_path / "cut")}):
        with pytest.raises(RefusedRow, match="^an image cannot be read") as caught:
            prepare(llava, ROW, [{"bytes": whole, "path": None}, image])
        assert caught.value.detail
    with pytest.raises(RefusedRow) as caught:
        prepare(llava, ROW, [{"bytes": None, "path": str(tmp_path / "none")}])
    assert "No such file" in caught.value.detail


@pytest.mark.parametrize(
    ("row", "column", "found"),
    [
        ({**ROW, "chosen": ["one", "two"]}, "chosen", "a list of a str"),
        ({**ROW, "chosen": {"text": "a"}}, "chosen", "a dictionary with the keys text"),
        ({**ROW, "rejected": [{"from": "gpt", "value": "a"}]}, "rejected", "keys from, value"),
        ({"chosen": [{"from": "human", "value": "a"}], "rejected": []}, "chosen", "keys from, value"),
    ],
)
def test_a_shape_that_is_not_read_names_the_column(row: Any, column: str, found: str, text: Any) -> None:
    with pytest.raises(RefusedRow, match=f"the column {column} is .*role: ..., content: ...") as refused:
        prepare(text, row)
    assert found in refused.value.detail


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"chat_template_kwargs": "x"}, "no dictionary"),
        ({"tools": "{"}, "no JSON"),
        ({"tools": 3}, "no list"),
    ],
)
def test_options_of_the_template_have_one_shape(column: Any, message: str, text: Any) -> None:
    with pytest.raises(RefusedRow, match=message):
        prepare(text, {**ROW, **column})
