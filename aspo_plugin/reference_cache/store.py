"""The folder of a reference cache: its files, their checksums, and what happens to damaged ones.

A folder holds `meta.json` (what the numbers were computed with) and, for every process that ever wrote,
`<writer>.values` (float32, appended) and `<writer>.index` (one record per row of a batch, written after
its values). Nobody writes to another's files, so any number of ranks and runs may fill one folder, and a
run that was killed leaves whole records behind. Records and values have checksums, and all of them are
checked when the folder is opened: what is damaged is set aside then, and never met in mid-training. Values
are read through a memory map.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMAT = 2
_RECORD = np.dtype([("key", "V16"), ("start", "<u8"), ("count", "<u4"), ("check", "<u4"), ("own", "<u4")])
_OWN = _RECORD.itemsize - 4  # bytes of a record before the checksum of the record itself

logger = logging.getLogger(__name__)


class ReferenceCacheError(RuntimeError):
    """The cache does not belong to this run, is damaged, or lacks what the run needs."""


class ReferenceCache:
    """Reads and writes one folder; see `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[bytes, tuple[str, int, int, int]] = {}
        self._maps: dict[str, np.ndarray] = {}
        self._writer = uuid.uuid4().hex
        self._written = 0
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path, fingerprint: Mapping[str, str]) -> ReferenceCache:
        """The cache in `folder`, made if it is not there, with every whole row of it checked.

        `fingerprint` names what the log-probs depend on besides a row's tokens and media: model, adapter,
        processor settings, dtype. Raises `ReferenceCacheError` where the folder was made with another one.
        Rows that are damaged are left out with a warning, and computed anew by the next `fill`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "meta.json"
        wanted = {"format": FORMAT, "fingerprint": dict(sorted(fingerprint.items()))}
        if not meta.exists():
            foreign = any(folder.iterdir()) and not any(folder.glob("*.meta"))
            if foreign and not meta.exists():  # another rank may have moved its own there meanwhile
                raise ReferenceCacheError(
                    f"{folder} holds files that are no reference cache: name another folder."
                )
            mine = folder / f"{uuid.uuid4().hex}.meta"
            with mine.open("w", encoding="utf-8") as file:
                file.write(json.dumps(wanted, indent=1))
                _to_disk(file)
            # All ranks may get here; each moves a whole file into place, and they are the same.
            os.replace(mine, meta)
        found = _read_meta(meta)
        if found != wanted:
            raise ReferenceCacheError(_other(folder, found, wanted))
        return cls(folder)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: bytes) -> bool:
        return key in self._where

    def lookup(self, keys: Sequence[bytes], response_mask: Tensor) -> Tensor | None:
        """Log-probs [2B, L] float32, 0 outside `response_mask`, or None where a row is not in the cache.

        Runs without waiting for the device. Raises `ReferenceCacheError` for values that were damaged since
        the cache was opened.
        """
        if any(key not in self._where for key in keys):
            return None
        values = torch.from_numpy(np.concatenate([self._read(key) for key in keys]))
        device = response_mask.device
        out = torch.zeros(response_mask.shape, dtype=torch.float32, device=device)
        return out.masked_scatter(response_mask, values.to(device, non_blocking=True))

    def store(self, keys: Sequence[bytes], logps: Tensor, response_mask: Tensor) -> None:
        """Append the rows of `logps` [2B, L] that are not there yet.

        They outlive the process when this returns, and the machine's power after `to_disk`.
        """
        values, mask = logps.detach().float().cpu().numpy(), response_mask.cpu().numpy()
        rows: list[tuple[bytes, np.ndarray]] = []
        for key, row, wanted in zip(keys, values, mask, strict=True):
            row = np.ascontiguousarray(row[wanted], dtype="<f4")
            if not np.isfinite(row).all():
                raise ReferenceCacheError(
                    "the reference gives a log-prob that is not finite; nothing was stored"
                )
            rows.append((key, row))
        self._append(rows)

    def _append(self, rows: Sequence[tuple[bytes, np.ndarray]]) -> None:
        rows = list({key: (key, row) for key, row in reversed(rows) if key not in self._where}.values())[::-1]
        if not rows:
            return
        records = []
        for key, row in rows:
            check = zlib.crc32(row.tobytes())
            record = np.array([(key, self._written, len(row), check, 0)], dtype=_RECORD)
            record["own"] = zlib.crc32(record.tobytes()[:_OWN])
            records.append(record)
            self._where[key] = (self._writer, self._written, len(row), check)
            self._written += len(row)
        for name, data in (
            ("values", np.concatenate([row for _, row in rows])),
            ("index", np.concatenate(records)),
        ):
            with (self.folder / f"{self._writer}.{name}").open("ab") as file:
                file.write(data.tobytes())
        self._maps.pop(self._writer, None)

    def refresh(self) -> None:
        """See what other processes have written since."""
        for index in sorted(self.folder.glob("*.index")):
            if index.stem != self._writer:
                self._take(index)

    def _take(self, index: Path) -> None:
        try:
            raw = index.read_bytes()
        except FileNotFoundError:  # another process has just set it aside
            return
        size = _RECORD.itemsize
        records = np.frombuffer(raw[: len(raw) // size * size], dtype=_RECORD)
        values = _mapped(index.with_suffix(".values"))
        whole: list[tuple[bytes, int, int, int]] = []
        for place, record in enumerate(records):
            key, start, count, check = record["key"].tobytes(), *map(int, record.tolist()[1:4])
            own = zlib.crc32(raw[place * size : place * size + _OWN])
            if key in self._where and self._where[key] == (index.stem, start, count, check):
                continue  # seen, and checked, before
            if own == int(record["own"]) and _holds(values, start, count, check):
                whole.append((key, start, count, check))
            else:
                self._set_aside(index, records, values)
                return
        for key, start, count, check in whole:
            self._where.setdefault(key, (index.stem, start, count, check))
        self._maps.pop(index.stem, None)

    def _set_aside(self, index: Path, records: np.ndarray, values: np.ndarray) -> None:
        """Take a damaged writer's whole rows over into files of our own, and leave its files alone.

        Which sets were complete is not known any more, for the key of a damaged record tells nothing.
        """
        for marker in self.folder.glob("*.complete"):
            marker.unlink(missing_ok=True)
        try:
            index.rename(index.with_suffix(".damaged"))
        except FileNotFoundError:  # another process does the same
            return
        rows = []
        for record in records:
            start, count, check, own = map(int, record.tolist()[1:])
            if own == zlib.crc32(record.tobytes()[:_OWN]) and _holds(values, start, count, check):
                rows.append((record["key"].tobytes(), np.array(values[start : start + count])))
        self._where = {key: where for key, where in self._where.items() if where[0] != index.stem}
        self._append(rows)
        logger.warning(
            "%d of %d rows in %s are damaged. The others were taken over, and those are computed anew; "
            "%s is no longer needed.",
            len(records) - len(rows),
            len(records),
            index,
            index.with_suffix(".damaged").name,
        )

    def is_complete(self, dataset: str) -> bool:
        """Whether a run went through all of `dataset` (any text that identifies it), no row lost since."""
        try:
            return len(self) >= int(self._marker(dataset).read_text())
        except (FileNotFoundError, ValueError):
            return False

    def mark_complete(self, dataset: str) -> None:
        """Remember that all of `dataset` is here; every rank has to come from `to_disk` before."""
        self._marker(dataset).write_text(str(len(self)))

    def to_disk(self) -> None:
        """Wait until what this process has written outlives the machine's power."""
        for name in ("values", "index"):
            path = self.folder / f"{self._writer}.{name}"
            if path.exists():
                with path.open("ab") as file:
                    _to_disk(file)

    def _marker(self, dataset: str) -> Path:
        return self.folder / f"{hashlib.blake2b(dataset.encode(), digest_size=16).hexdigest()}.complete"

    def _read(self, key: bytes) -> np.ndarray:
        writer, start, count, check = self._where[key]
        if writer not in self._maps:
            self._maps[writer] = _mapped(self.folder / f"{writer}.values")
        if not _holds(self._maps[writer], start, count, check):
            raise ReferenceCacheError(
                f"the values in {self.folder} were changed while this run used them. Start it again: what "
                "is damaged is then set aside, and computed anew."
            )
        return self._maps[writer][start : start + count]


def _mapped(file: Path) -> np.ndarray:
    """The values of one writer; a killed one may have left a part of a number at the end."""
    size = file.stat().st_size // 4 if file.exists() else 0
    if not size:
        return np.zeros(0, dtype="<f4")
    return np.memmap(file, dtype="<f4", mode="r", shape=(size,))


def _holds(values: np.ndarray, start: int, count: int, check: int) -> bool:
    return start + count <= len(values) and zlib.crc32(values[start : start + count].tobytes()) == check


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(found, dict) and isinstance(found.get("fingerprint"), dict)
    except ValueError:
        fits = False
    if not fits:
        raise ReferenceCacheError(
            f"{path} is empty or damaged, so that nobody can tell which reference the folder's numbers are "
            "of: delete the folder, and it is filled anew, or name another one."
        )
    return found


def _other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if found.get("format") != FORMAT:
        return f"{folder} is a reference cache of another version of aspo-plugin: name another folder."
    then, now = found["fingerprint"], wanted["fingerprint"]
    changed = [
        f"{name} was {then.get(name, 'not set')}, now {now.get(name, 'not set')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    return (
        f"the reference cache in {folder} was made with something else: {'; '.join(changed)}. "
        "Name another folder, or delete this one if it is no longer wanted."
    )
