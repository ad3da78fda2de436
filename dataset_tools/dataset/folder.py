"""The folder of a converted dataset: worked on under another name, renamed when whole.

    OUT/
      data/train-00000-of-00014.parquet   rows, see `schema.py`
      aspo.json                           where they come from and what was done, see `record.py`
      dataset_info.json                   LLaMA-Factory reads the folder as `dataset_dir` by it
      rejected.jsonl                      rows that could not be used, with reasons (if there are any)

Until then all of it is in `OUT.incomplete`, with `state.json`: how many shards are finished and where in the
source the next one starts. A shard counts as soon as the state says so, so a conversion killed at any moment
goes on after its last finished shard.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any

from dataset_tools.dataset.record import RECORD, write_json, write_record
from dataset_tools.errors import DataError, UsageError

REJECTED = "rejected.jsonl"
DATASET_INFO = "dataset_info.json"
STATE = "state.json"
_SHARD = re.compile(r".*?-(?P<index>\d{5})(-of-\d{5})?\.parquet")


def llamafactory_entry() -> dict[str, Any]:
    """The `dataset_info.json` entry with which LLaMA-Factory reads the folder, for every stage."""
    return {
        "file_name": "data",
        "formatting": "aspo",
        "ranking": True,
        "columns": {
            "messages": "prompt",
            "chosen": "chosen",
            "rejected": "rejected",
            "images": "images",
        },
    }


class Workplace:
    """The working folder of one conversion. As a context manager it is locked against a second process."""

    def __init__(self, out: Path, split: str):
        self.out, self.split = out, split
        self.folder = out.with_name(out.name + ".incomplete")
        self.data = self.folder / "data"
        self._lock: IO[str] | None = None

    def exists(self) -> bool:
        """Whether a conversion was begun."""
        return (self.folder / STATE).is_file() or self.is_whole()

    def is_whole(self) -> bool:
        """Whether all is written and only the final name is missing."""
        return (self.folder / RECORD).is_file() and not (self.folder / STATE).is_file()

    def __enter__(self) -> Workplace:
        self.data.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")
        try:
            import fcntl

            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on Windows
            pass
        except OSError:
            self._lock.close()
            raise UsageError(f"another aspo-data is at work in {self.folder}.") from None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._lock:
            self._lock.close()

    def read_state(self) -> dict[str, Any]:
        """The state of the conversion as it was last written."""
        try:
            return json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.folder / STATE} is damaged ({error}): delete the folder.") from None

    def write_state(self, state: dict[str, Any]) -> None:
        """Make finished shards count."""
        write_json(self.folder / STATE, state)

    def shard(self, index: int) -> Path:
        """The path of a finished shard while the number of shards is not known."""
        return self.data / f"{self.split}-{index:05}.parquet"

    def restore(self, shards: int, rejected_bytes: int) -> None:
        """Bring the folder to the state of `shards` finished ones: what was begun after them is removed."""
        for path in sorted(self.data.iterdir()):
            match = _SHARD.fullmatch(path.name)
            if match and int(match["index"]) < shards:
                path.rename(self.shard(int(match["index"])))
            else:
                path.unlink()
        missing = [index for index in range(shards) if not self.shard(index).is_file()]
        if missing:
            raise DataError(f"{self.shard(missing[0])} is gone: delete {self.folder} and start again.")
        with open(self.folder / REJECTED, "ab") as stream:
            stream.truncate(rejected_bytes)

    def finish(self, shards: int, record: dict[str, Any]) -> None:
        """Name the shards for good, write what lies beside them, and give the folder its name."""
        for index in range(shards):
            self.shard(index).rename(self.data / f"{self.split}-{index:05}-of-{shards:05}.parquet")
        if not (self.folder / REJECTED).stat().st_size:
            (self.folder / REJECTED).unlink()
        write_json(self.folder / DATASET_INFO, {self.split: llamafactory_entry()})
        write_record(self.folder, record)
        sync_folder(self.data)
        (self.folder / STATE).unlink()
        self.name_for_good()

    def name_for_good(self) -> None:
        """Rename the whole folder to OUT."""
        (self.folder / "lock").unlink(missing_ok=True)
        sync_folder(self.folder)
        if self.out.is_dir():
            self.out.rmdir()  # it was found empty
        os.rename(self.folder, self.out)
        sync_folder(self.out.parent)

    def discard(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames within a folder survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_complete(out: Path) -> bool:
    """Whether OUT is a whole converted dataset."""
    return (out / RECORD).is_file()
