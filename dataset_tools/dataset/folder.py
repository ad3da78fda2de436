"""The folder of a converted dataset: worked on under another name, renamed when whole.

    OUT/
      data/train-00000-of-00014.parquet   rows, see `schema.py`
      aspo.json                           where they come from and what was done, see `record.py`
      dataset_info.json                   LLaMA-Factory reads the folder as `dataset_dir` by it
      rejected.jsonl                      rows that could not be used, with reasons (if there are any)
      left_out.jsonl                      rows and pairs left out on purpose, likewise

Until then all of it is in `OUT.incomplete`, with `state.json`: how many shards are finished and where in the
source the next one starts. A shard counts as soon as the state says so, so a conversion killed at any moment
goes on after its last finished shard. The machines of a cluster leave in `parts` what shards are made from.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataset_tools.dataset.record import RECORD, write_json
from dataset_tools.dataset.workplace import MARK, WorkFolder, sync_folder
from dataset_tools.errors import DataError

REJECTED = "rejected.jsonl"
LEFT_OUT = "left_out.jsonl"
LOGS = (REJECTED, LEFT_OUT)
DATASET_INFO = "dataset_info.json"
STATE = "state.json"
_PART = r"parts/\.?[\w.-]+"


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


class Workplace(WorkFolder):
    """The working folder of one conversion. As a context manager it is locked against a second process.

    A command that writes other shards under the same state names itself and its record in a subclass.
    """

    writer = "convert"
    record = RECORD
    read_by_llamafactory = True
    beside: tuple[str, ...] = ()
    """What else the command writes into the folder."""

    def __init__(self, out: Path, split: str):
        name = re.escape(split)
        shard = rf"{name}-\d{{5}}(-of-\d{{5}})?\.parquet"
        self._shard = re.compile(rf"{name}-(?P<index>\d{{5}})(-of-\d{{5}})?\.parquet")
        self._begun_shard = re.compile(rf"\.{shard}\.partial")
        files = (STATE, *LOGS, self.record, DATASET_INFO, *self.beside)
        known = (*files, f"data/{shard}", rf"data/\.{shard}\.partial", _PART)
        super().__init__(out, self.writer, tuple(re.escape(n) if "/" not in n else n for n in known))
        self.split = split
        self.data = self.folder / "data"
        self.parts = self.folder / "parts"

    def exists(self) -> bool:
        """Whether a conversion was begun. Raises `UsageError` where the folder is not a conversion's."""
        return self.begun() and ((self.folder / STATE).is_file() or self.is_whole())

    def is_whole(self) -> bool:
        """Whether all is written and only the final name is missing."""
        return (self.folder / self.record).is_file() and not (self.folder / STATE).is_file()

    def __enter__(self) -> Workplace:
        super().__enter__()
        self.data.mkdir(exist_ok=True)
        return self

    def read_state(self) -> dict[str, Any]:
        """The state of the conversion as it was last written."""
        path = self.folder / STATE
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            counted = all(isinstance(state[name], int) for name in ("shards", "next_row"))
            counted = counted and all(isinstance(state["log_bytes"][name], int) for name in LOGS)
            digests, tally = state["digests"], state["tally"]
            if not counted or len(digests) != state["shards"] or not isinstance(tally["reasons"], dict):
                raise ValueError("it lacks what a state has")
            if not isinstance(state["fingerprint"], dict):
                raise ValueError("it lacks what a state has")
            return state
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error!r}): remove {self.folder} and start again.") from None

    def write_state(self, state: dict[str, Any]) -> None:
        """Make finished shards count."""
        write_json(self.folder / STATE, state)

    def shard(self, index: int) -> Path:
        """The path of a finished shard while the number of shards is not known."""
        return self.data / f"{self.split}-{index:05}.parquet"

    def restore(self, shards: int, log_bytes: dict[str, int], later: bool = False) -> None:
        """Bring the folder to the state of `shards` finished ones: what was begun after them is removed.

        `later`: whole shards after them are left.
        """
        for path in sorted(self.data.iterdir()):
            match = self._shard.fullmatch(path.name)
            if match and int(match["index"]) < shards:
                path.rename(self.shard(int(match["index"])))
            elif (match and not later) or self._begun_shard.fullmatch(path.name):
                path.unlink()
        missing = [index for index in range(shards) if not self.shard(index).is_file()]
        if missing:
            raise DataError(f"{self.shard(missing[0])} is gone: remove {self.folder} and start again.")
        for name, written in log_bytes.items():
            with open(self.folder / name, "ab") as stream:
                size = stream.tell()
                if size < written:
                    raise DataError(
                        f"{self.folder / name} has {size:,} bytes, but {written:,} were written: it "
                        f"was changed. Remove {self.folder} and start again."
                    )
                stream.truncate(written)

    def remove_parts(self) -> None:
        """Remove the parts that shards were made from; a worker that was given up may still add to them."""
        while self.parts.exists():
            for path in self.parts.iterdir():
                path.unlink(missing_ok=True)
            with suppress(OSError):
                self.parts.rmdir()

    def finish(self, shards: int, record: dict[str, Any]) -> None:
        """Name the shards for good, write what lies beside them, and give the folder its name."""
        for index in range(shards):
            self.shard(index).rename(self.data / f"{self.split}-{index:05}-of-{shards:05}.parquet")
        for name in LOGS:
            if not (self.folder / name).stat().st_size:
                (self.folder / name).unlink()
        if self.read_by_llamafactory:
            write_json(self.folder / DATASET_INFO, {self.split: llamafactory_entry()})
        write_json(self.folder / self.record, record)
        sync_folder(self.data)
        (self.folder / STATE).unlink()
        self._forget_earlier_lists()
        self.name_for_good()

    def _forget_earlier_lists(self) -> None:
        """Remove the lists that `give_up` of an earlier try left beside OUT: they say nothing of this one."""
        for name in LOGS:
            path = self.out.with_name(f"{self.out.name}.{name}")
            try:
                with open(path, encoding="utf-8") as stream:
                    ours = {"id", "reason", "row"} <= set(json.loads(stream.readline(1 << 20)))
            except (OSError, ValueError, TypeError):
                continue
            if ours and not path.is_symlink():
                path.unlink()

    def give_up(self) -> str:
        """Keep the lists of what was not used beside OUT and remove the rest, so that the next try is free.

        Returns a sentence that says where the lists are.
        """
        self._forget_earlier_lists()
        kept = []
        for name in LOGS:
            if (self.folder / name).is_file() and (self.folder / name).stat().st_size:
                kept.append(self.out.with_name(f"{self.out.name}.{name}"))
                os.replace(self.folder / name, kept[-1])
        for name in (*LOGS, STATE, MARK):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.data, self.folder):
            if not any(folder.iterdir()):
                folder.rmdir()
        return f"{' and '.join(map(str, kept))} {'names' if len(kept) == 1 else 'name'} them." if kept else ""


def is_complete(out: Path) -> bool:
    """Whether OUT is a whole converted dataset."""
    return (out / RECORD).is_file()
