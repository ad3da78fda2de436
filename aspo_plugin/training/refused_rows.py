"""The rows that a run refused, one line each: which dataset and row, and why. The same in every host."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import KEPT, REJECTED
from .refusals import RefusedRow, message

EXCERPT = 120  # characters of a refused row's texts: enough to find it by
FIELDS = ("split", "dataset", "row", "id", "reason", "message", "detail", "prompt", "chosen")
"""Of every line: `split` is training or evaluation, `row` the place in `dataset` from 0 (null in a stream
that several processes read), `id` the row's own or null, `reason` a code of `refusals.REASONS` and `message`
its text, `detail` what is the matter with this row, `prompt` and `chosen` the beginning of both texts."""
_OF_ROW = ("dataset", "row", "id", "reason", "detail", "prompt", "chosen")


def refused_row(
    refusal: RefusedRow, dataset: str, row: int | None, identity: Any, prompt: Any, chosen: Any
) -> dict[str, Any]:
    """What is kept of a refused row until it is listed: all that a line says but its split and message."""
    known = isinstance(identity, str | int) and not isinstance(identity, bool)
    return {
        "dataset": dataset,
        "row": row,
        "id": str(identity) if known else None,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "prompt": excerpt(prompt),
        "chosen": excerpt(chosen),
    }


def refused_line(row: Mapping[str, Any], split: str, limit: str) -> dict[str, Any]:
    """A line of the file, of what `refused_row` kept; `limit` is what the host calls its limit of tokens."""
    values = {**{name: row[name] for name in _OF_ROW}, "split": split}
    values["message"] = message(row["reason"], limit)
    return {name: values[name] for name in FIELDS}


def excerpt(value: Any) -> str:
    """The beginning of a text, or of the last message of several, whatever shape it has."""
    if isinstance(value, list):
        value = value[-1] if value else None
    if isinstance(value, Mapping):
        value = value.get("content")
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, Mapping)]
        value = " ".join(text for text in texts if isinstance(text, str))
    return value[:EXCERPT] if isinstance(value, str) else ""


class RefusedRows:
    """`<output_dir>/aspo_rejected.jsonl`: one JSON object a row, each row once.

    Any process of a run may add to it: a streamed dataset is read in every rank, in their loaders' workers,
    and anew in every epoch.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir).absolute() / REJECTED
        self._seen: set[bytes] = set()
        self._read = 0

    def clear(self) -> None:
        """Remove what an earlier run left. For one process, before any adds."""
        self.path.unlink(missing_ok=True)

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Write the records that are not in the file yet."""
        lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
        if not lines:
            return
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        lock = FileLock(Path(tempfile.gettempdir()) / f"aspo-{name}.lock")  # not among the user's files
        with lock, self.path.open("a+b") as file:
            file.seek(self._read)
            self._seen.update(file)
            new = list(dict.fromkeys(line for line in lines if line not in self._seen))
            file.writelines(new)
            self._seen.update(new)
            self._read = file.tell()

    def records(self) -> list[dict[str, Any]]:
        """What the file holds."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> reason -> rows."""
        found: dict[str, Counter[str]] = {}
        for record in self.records():
            found.setdefault(record["split"], Counter())[record["reason"]] += 1
        return {split: dict(counter) for split, counter in found.items()}


def keep(
    folder: str | Path,
    counts: dict[str, dict[str, int]],
    records: list[dict[str, Any]],
    scorers: list[str] | None = None,
) -> None:
    """Leave with data that is prepared once for several runs what was refused while it was made, and which
    models scored it."""
    values: dict[str, Any] = {"counts": counts, "rejected": records}
    if scorers is not None:
        values["scorers"] = scorers
    text = json.dumps(values, indent=1, ensure_ascii=False)
    (Path(folder) / KEPT).write_text(text + "\n", encoding="utf-8")


def kept(folder: str | Path) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
    """What `keep` left of refused rows; nothing where the data was made without it."""
    found: tuple[Any, Any] | None = _kept(folder, lambda values: (values["counts"], values["rejected"]))
    return found or ({}, [])


def kept_scorers(folder: str | Path) -> list[str] | None:
    """The models that `keep` left; None where it left none."""
    found: list[str] | None = _kept(folder, lambda values: values.get("scorers"))
    return found


def _kept(folder: str | Path, read: Callable[[Any], Any]) -> Any:
    path = Path(folder) / KEPT
    if not path.is_file():
        return None
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: remove {path.parent}, and the data is prepared anew."
        ) from error
