"""The layout of a converted dataset, defined once: columns, invariants, and the record kept beside the data.

One row is one preference pair:

| Column | Type | Meaning |
|---|---|---|
| `images` | list of {bytes, path} | encoded files as the source holds them; empty for a text-only row |
| `prompt` | list of {role, content} | perhaps a `system` message, then turns from `user` to `user` |
| `chosen`, `rejected` | list of {role, content} | exactly one `assistant` message each |
| `untrained_prefix` | int32 | characters that both responses begin with and that are not trained; null: 0 |
| `chosen_sentences`, `rejected_sentences` | list of {start, end} | character offsets into that message |
| `chosen_similarity`, `rejected_similarity` | list of float32 | one cosine per sentence, see below |
| `id` | string | unique in the dataset |
| `source` | string | the name of the source |

A similarity that is null could not be computed; a null list has not been scored.

An untrained prefix is a context that the model is given and does not learn (SENTINEL's). It stands in the
content of both responses and in no sentence.

`content` is a plain string. Where the images are: a prompt without literal `<image>` markers has its images
before the text of the first user turn. A prompt with markers has one marker for each image, in order, in its
user turns. Any other number of markers, or a marker in a system message or in a response, makes the row
invalid, for the trainers would count it as an image. Markers that only lead the first user turn say what no
marker says and are removed by `convert` (`default_markers`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataset_tools.errors import DataError

IMAGE_MARKER = "<image>"
RESPONSES = ("chosen", "rejected")
ROLES = ("system", "user", "assistant")

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
_SIMILARITY = pa.list_(pa.float32())


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


# The list forms that `datasets` 2.16 to 5.x all read: the `List` feature of 4.0 is unknown to 3.x, and a
# `Sequence` of structs becomes a struct of lists.
_MESSAGES_FEATURE = [{"role": _value("string"), "content": _value("string")}]
_SPANS_FEATURE = [{"start": _value("int32"), "end": _value("int32")}]
_SIMILARITY_FEATURE = {"feature": _value("float32"), "_type": "Sequence"}

COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "id": (pa.string(), _value("string")),
    "source": (pa.string(), _value("string")),
    "images": (pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])), [{"_type": "Image"}]),
    "prompt": (_MESSAGES, _MESSAGES_FEATURE),
    "chosen": (_MESSAGES, _MESSAGES_FEATURE),
    "rejected": (_MESSAGES, _MESSAGES_FEATURE),
    "chosen_sentences": (_SPANS, _SPANS_FEATURE),
    "rejected_sentences": (_SPANS, _SPANS_FEATURE),
    "chosen_similarity": (_SIMILARITY, _SIMILARITY_FEATURE),
    "rejected_similarity": (_SIMILARITY, _SIMILARITY_FEATURE),
    "untrained_prefix": (pa.int32(), _value("int32")),
}
"""Column name to (arrow type, feature of the `datasets` library)."""

OPTIONAL = ("untrained_prefix",)
"""Columns that a dataset may lack, as those that were made before them do."""

FEATURES = {name: feature for name, (_, feature) in COLUMNS.items()}


def arrow_schema() -> pa.Schema:
    """The schema of every parquet file of a converted dataset, with the features `datasets` reads."""
    info = json.dumps({"info": {"features": FEATURES}})
    return pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()], metadata={"huggingface": info})


def text_of(messages: list[dict[str, str]]) -> str:
    """The text of a `chosen` or `rejected` column."""
    return messages[0]["content"]


def count_markers(prompt: Iterable[dict[str, str]]) -> int:
    """Literal `<image>` markers in the prompt's messages."""
    return sum(message["content"].count(IMAGE_MARKER) for message in prompt)


def default_markers(prompt: list[dict[str, str]], images: int) -> list[dict[str, str]]:
    """`prompt` without its markers where all `images` of them lead the first user turn; else unchanged.

    White space after each marker goes with it.
    """
    if count_markers(prompt) != images or not images:
        return prompt
    for index, message in enumerate(prompt):
        if message["role"] == "user":
            rest = message["content"].lstrip()
            for _ in range(images):
                if not rest.startswith(IMAGE_MARKER):
                    return prompt
                rest = rest[len(IMAGE_MARKER) :].lstrip()
            return [*prompt[:index], {"role": "user", "content": rest}, *prompt[index + 1 :]]
    return prompt


def invariants(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, one text per problem. Image bytes are not looked at."""
    return [*_prompt_problems(row), *_response_problems(row)]


def _prompt_problems(row: dict[str, Any]) -> Iterator[str]:
    if not row.get("id"):
        yield "no id"
    prompt = row.get("prompt")
    if not prompt:
        yield "empty prompt"
        return
    if not all(isinstance(message, Mapping) for message in prompt):
        yield "a message of the prompt is null"
        return
    for index, message in enumerate(prompt):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            yield f"prompt has the role {role!r}, expected one of {', '.join(ROLES)}"
        if not isinstance(content, str):
            yield f"the content of prompt message {index} is not a text"
            return
        if role == "system" and index:
            yield "a system message is not the first message of the prompt"
        elif role != "system" and role == (prompt[index - 1].get("role") if index else "assistant"):
            yield f"the turns of the prompt do not alternate: message {index} is {role}"
        if role != "user" and IMAGE_MARKER in content:
            yield f"a {role} message holds a literal {IMAGE_MARKER} marker"
    if prompt[-1]["role"] != "user":
        yield "the prompt does not end with a user turn"
    elif not prompt[-1]["content"].replace(IMAGE_MARKER, "").strip():
        yield "empty prompt"
    images, markers = len(row.get("images") or []), count_markers(prompt)
    if markers not in (0, images):
        yield f"{markers} literal {IMAGE_MARKER} markers for {images} images"


def _response_problems(row: dict[str, Any]) -> Iterator[str]:
    texts = {}
    for name in RESPONSES:
        messages = row.get(name)
        single = messages[0] if messages and len(messages) == 1 else None
        if not isinstance(single, Mapping) or single.get("role") != "assistant":
            yield f"{name} is not exactly one assistant message"
            continue
        text = single.get("content")
        if not isinstance(text, str) or not text.strip():
            yield f"empty {name}"
            continue
        texts[name] = text
        if IMAGE_MARKER in text:
            yield f"{name} holds a literal {IMAGE_MARKER} marker"
        spans = row.get(f"{name}_sentences")
        if spans is None:
            yield f"{name}_sentences is null"
            continue
        given = row.get("untrained_prefix") or 0
        yield from (f"{name}_sentences: {problem}" for problem in _span_problems(text, spans, given))
        similarity = row.get(f"{name}_similarity")
        if similarity is not None:
            if len(similarity) != len(spans):
                yield f"{name}_similarity has {len(similarity)} values for {len(spans)} sentences"
            if any(value is not None and not -1.0001 <= value <= 1.0001 for value in similarity):
                yield f"{name}_similarity has a value outside [-1, 1]"
    if len(texts) == 2 and texts["chosen"].strip() == texts["rejected"].strip():
        yield "chosen equals rejected"
    if len(texts) == 2 and row.get("untrained_prefix"):
        yield from _prefix_problems(row["untrained_prefix"], texts["chosen"], texts["rejected"])


def _prefix_problems(length: int, chosen: str, rejected: str) -> Iterator[str]:
    if length < 0 or chosen[:length] != rejected[:length]:
        yield f"untrained_prefix: the two responses do not begin with the same {length} characters"
    elif not chosen[length:].strip() or not rejected[length:].strip():
        yield f"untrained_prefix: nothing is left to train behind {length} characters"


def _span_problems(text: str, spans: list[dict[str, int]], given: int = 0) -> Iterator[str]:
    """Spans must be in range, in order, not empty, not overlap, and cover all but white space and what is
    given."""
    end = max(given, 0)
    for index, span in enumerate(spans):
        if span is None:
            yield f"sentence {index} is null"
            return
        begin, stop = span["start"], span["end"]
        if begin is None or stop is None or not 0 <= begin < stop <= len(text):
            yield f"sentence {index} is [{begin}, {stop}) in a text of {len(text)} characters"
            return
        if begin < end:
            yield f"sentence {index} starts at {begin}, before the end {end} of the one before"
            return
        if text[end:begin].strip():
            yield f"text between {end} and {begin} belongs to no sentence"
        end = stop
    if text[end:].strip():
        yield f"text after {end} belongs to no sentence"


def shards(folder: Path | str) -> list[Path]:
    """The parquet files of a converted dataset, in order."""
    return sorted((Path(folder) / "data").glob("*.parquet"))


def count_rows(folder: Path | str) -> int:
    """The number of rows, from the parquet footers."""
    return sum(read_footer(path).num_rows for path in shards(folder))


def read_footer(path: Path | str) -> Any:
    """The metadata of a parquet file. Raises `DataError` naming the file where it has none."""
    import pyarrow.parquet as pq

    # A path that is not Unicode is nothing to pyarrow: it gets an open file.
    with readable(path), open(path, "rb") as stream:
        return pq.read_metadata(stream)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Whatever a damaged parquet file makes a reader raise, as one `DataError` with its name."""
    try:
        yield
    except (DataError, KeyboardInterrupt, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} is gone: {error.strerror}.") from None
    except (Exception, pa.ArrowException) as error:
        text = str(error).strip().partition("\n")[0][:300]
        raise DataError(
            f"{path} is damaged or cut short: {text}. Convert again, or fetch the dataset again."
        ) from None


def iter_batches(
    path: Path | str, columns: list[str] | None = None, batch_size: int = 64
) -> Iterator[pa.RecordBatch]:
    """Record batches of one parquet file, read so that memory does not grow with the row group.

    The checksum of each page is compared. Raises `DataError` naming the file where it is damaged, or where a
    column is missing or of another type: the footer, which names them, has no checksum.
    """
    import pyarrow.parquet as pq

    with open(path, "rb") as stream:
        with readable(path):
            file = pq.ParquetFile(
                stream, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            )
            _check_columns(file.schema_arrow, COLUMNS if columns is None else columns)
            batches = file.iter_batches(batch_size=batch_size, columns=columns, use_threads=False)
        while True:
            with readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _check_columns(schema: pa.Schema, asked: Iterable[str]) -> None:
    """Raise `ValueError` for a column of the schema that a file lacks, or has with another type."""
    for name in (path.partition(".")[0] for path in asked):
        if name not in schema.names:
            if name not in OPTIONAL:
                raise ValueError(f"it has no column {name}")
        elif not schema.field(name).type.equals(COLUMNS[name][0]):
            raise ValueError(f"column {name} is {schema.field(name).type}, expected {COLUMNS[name][0]}")


def iter_rows(
    folder: Path | str, columns: list[str] | None = None, batch_size: int = 64
) -> Iterator[dict[str, Any]]:
    """Rows of a converted dataset in order, as dictionaries; `columns` None reads all of them."""
    for path in shards(folder):
        for batch in iter_batches(path, columns, batch_size):
            yield from batch.to_pylist()
