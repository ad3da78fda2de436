"""The rows that a run refused, one line each: which dataset and row, and why."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = "aspo_rejected.jsonl"
KEPT = "aspo_rows.json"  # beside prepared data: what was refused while it was made
EXCERPT = 120  # characters of a refused row's texts: enough to find it by


class RejectedRows:
    """`<output_dir>/aspo_rejected.jsonl`: one JSON object a row, each row once.

    Any process of a run may add to it: a streamed dataset is read in every rank, in their loaders' workers,
    and anew in every epoch.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir).absolute() / FILE
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


def keep(folder: str | Path, counts: dict[str, dict[str, int]], records: list[dict[str, Any]]) -> None:
    """Leave with data that is prepared once for several runs what was refused while it was made."""
    text = json.dumps({"counts": counts, "rejected": records}, indent=1, ensure_ascii=False)
    (Path(folder) / KEPT).write_text(text + "\n", encoding="utf-8")


def kept(folder: str | Path) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
    """What `keep` left; nothing where the data was made without it."""
    path = Path(folder) / KEPT
    if not path.is_file():
        return {}, []
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["counts"], found["rejected"]
