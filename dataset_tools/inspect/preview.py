"""A page to look at a converted dataset: one HTML file with its images inside, which loads nothing else.

Rows are spread evenly over the dataset, and the first rows with each kind of problem come with them. The
dataset's texts are untrusted: they travel as JSON and are shown as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataset_tools.dataset.record import read_record, write_text
from dataset_tools.dataset.schema import (
    COLUMNS,
    RESPONSES,
    count_rows,
    iter_batches,
    readable,
    shards,
    text_of,
)
from dataset_tools.errors import UsageError
from dataset_tools.images.opening import open_undecoded
from dataset_tools.inspect.stats import is_cosine, is_whole, problems_of

UNDECODABLE = "an image cannot be decoded"
_OF_EACH_PROBLEM = 10
_SIDE = 480
_LARGE_SIDE = 800
"""Widest and highest an image is on a page of up to `_FEW` rows."""
_FEW = 60


def write_preview(
    folder: Path | str,
    path: Path | str,
    rows: int = 100,
    progress: Callable[[int], Any] = lambda rows: None,
) -> dict[str, Any]:
    """Write the page; returns how many rows it shows and how many have each kind of problem in it.

    `rows` are spread over the dataset; up to ten more come for each kind of problem, and the page shows those
    last. Images are scaled down to 480 pixels, on a page of up to 60 rows to 800. Raises `UsageError` where
    the folder is no converted dataset.
    """
    record, total = read_record(folder), count_rows(folder)
    if not total:
        raise UsageError(f"{folder} has no rows to look at.")
    picked = _pick(folder, total, rows, progress)
    side = _SIDE if len(picked) > _FEW else _LARGE_SIDE
    shown = [page_row(number, row, side) for number, row in read_rows(folder, picked)]
    kinds = Counter(kind for row in shown for kind in row["problems"])
    source = record["source"]
    name = Path(source.get("location") or "").name or source["name"]
    scorer = record.get("scorer")
    about = f"{len(shown):,} of {total:,} rows. " + (
        f"Similarities by {scorer['model']}." if scorer else "The sentences are not scored."
    )
    data = {"title": f"{name}: sentences", "about": about, "kinds": list(kinds), "rows": shown}
    write_text(path, page_of(data))
    return {"rows": len(shown), "of": total, "problems": dict(kinds)}


def _pick(folder: Path | str, total: int, rows: int, progress: Callable[[int], Any]) -> dict[int, list[str]]:
    """Number of each picked row to its problems. The images' bytes are not read."""
    spread = (
        {index * total // rows for index in range(min(rows, total))} if rows < total else set(range(total))
    )
    columns = [name for name in COLUMNS if name != "images"] + ["images.list.element.path"]
    seen: Counter[str] = Counter()
    picked: dict[int, list[str]] = {}
    number = 0
    for path in shards(folder):
        for batch in iter_batches(path, columns, batch_size=256):
            for row in batch.to_pylist():
                kinds = problems_of(row)
                if number in spread or any(seen[kind] < _OF_EACH_PROBLEM for kind in kinds):
                    picked[number] = kinds
                    seen.update(kinds)
                number += 1
            progress(batch.num_rows)
    return picked


def read_rows(folder: Path | str, picked: Mapping[int, list[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The picked rows with their images; row groups without one are skipped."""
    first = 0
    for path in shards(folder):
        with (
            readable(path),
            open(path, "rb") as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as file,
        ):
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                wanted = [number for number in range(first, first + count) if number in picked]
                if wanted:
                    table = file.read_row_group(group)
                    for number in wanted:
                        [row] = table.slice(number - first, 1).to_pylist()
                        yield number, {**row, "problems": picked[number]}
                first += count


def page_row(number: int, row: dict[str, Any], side: int) -> dict[str, Any]:
    """A row of a converted dataset, with its `problems`, as the page takes it; images at most `side` wide."""
    images = [thumbnail((image and image["bytes"]) or b"", side) for image in row["images"] or ()]
    problems = row["problems"] + ([UNDECODABLE] if None in images else [])
    responses = {}
    for name in RESPONSES:
        spans = [(span["start"], span["end"]) for span in row[f"{name}_sentences"] or () if is_whole(span)]
        text = text_of(row[name]) if row[name] and row[name][0] else ""
        similarity = [value if is_cosine(value) else None for value in row[f"{name}_similarity"] or ()]
        responses[name] = {"text": text or "", "spans": spans, "similarity": similarity or None}
    prompt = [(message["role"] or "", message["content"] or "") for message in row["prompt"] or () if message]
    return {
        "number": number,
        "id": row["id"],
        "problems": problems,
        "images": images,
        "prompt": prompt,
        "untrained": max(row.get("untrained_prefix") or 0, 0),
        **responses,
    }


def thumbnail(data: bytes, side: int) -> str | None:
    """A data URI of the image at most `side` pixels wide and high, None where it cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), open_undecoded(data) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened.draft("RGB", (side, side))
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:  # decoders raise what they like
        return None
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def page_of(data: dict[str, Any]) -> str:
    """The page of `data`: `title`, `about`, `kinds` of problems, `rows`.

    A row has `number`, `id`, `problems`, `images` (data URIs), `prompt` (role and text of each turn),
    `chosen` and `rejected` (`text`, `spans`, `similarity`). In place of these two it may show `parts`, each
    with `name`, `about`, `text`, `spans`, the `values` that tint the sentences and `notes`, lines for each,
    and under them a `table` (`head`, `rows`). `measure` names the values, `bounds` are their least and
    largest.
    """
    here = Path(__file__).parent
    script = (here / "preview.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # "</script>" and "<!--" inside a text would end or hide the block.
    inside = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = (here / "preview.html").read_text(encoding="utf-8")
    values = {
        "SCRIPT_HASH": f"sha256-{digest}",
        "TITLE": html.escape(data["title"]),
        "SCRIPT": script,
        "DATA": inside.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
    }
    return re.sub(r"@@([A-Z_]+)@@", lambda match: values[match[1]], page)
