"""Per-token reference log-probs on disk, computed once and reused over epochs and runs.

A folder holds `meta.json` (what the numbers were computed with) and, for every process that ever wrote,
`<writer>.values` (float32, appended) and `<writer>.index` (one record per row of a batch, written after
its values). Nobody writes to another's files, so any number of ranks and runs may fill one folder, and a
run that was killed leaves whole records behind. Values are read through a memory map.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEYS = "aspo_reference_keys"
"""Key of a batch under which collators put `row_keys`, a list of bytes that stays on the host."""

FORMAT = 1
_RECORD = np.dtype([("key", "V16"), ("start", "<u8"), ("count", "<u4"), ("check", "<u4")])


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
        """The cache in `folder`, made if it is not there.

        `fingerprint` names what the log-probs depend on besides a row's tokens and images: model, adapter,
        processor settings, dtype. Raises `ReferenceCacheError` where the folder was made with another one.
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
            mine.write_text(json.dumps(wanted, indent=1))
            # All ranks may get here; each moves a whole file into place, and they are the same.
            os.replace(mine, meta)
        found = json.loads(meta.read_text())
        if found != wanted:
            raise ReferenceCacheError(_other(folder, found, wanted))
        return cls(folder)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: bytes) -> bool:
        return key in self._where

    def lookup(self, keys: Sequence[bytes], response_mask: Tensor) -> Tensor | None:
        """Log-probs [2B, L] float32, 0 outside `response_mask`, or None where a row is not in the cache.

        Runs without waiting for the device. Raises `ReferenceCacheError` for damaged values.
        """
        if any(key not in self._where for key in keys):
            return None
        values = torch.from_numpy(np.concatenate([self._read(key) for key in keys]))
        device = response_mask.device
        out = torch.zeros(response_mask.shape, dtype=torch.float32, device=device)
        return out.masked_scatter(response_mask, values.to(device, non_blocking=True))

    def store(self, keys: Sequence[bytes], logps: Tensor, response_mask: Tensor) -> None:
        """Append the rows of `logps` [2B, L] that are not there yet; on disk when this returns."""
        values, mask = logps.detach().float().cpu().numpy(), response_mask.cpu().numpy()
        records, rows = [], []
        for key, row, wanted in zip(keys, values, mask, strict=True):
            if key in self._where:
                continue
            row = np.ascontiguousarray(row[wanted], dtype="<f4")
            if not np.isfinite(row).all():
                raise ReferenceCacheError(
                    "the reference gives a log-prob that is not finite; nothing was stored"
                )
            records.append((key, self._written, len(row), zlib.crc32(row.tobytes())))
            rows.append(row)
            self._where[key] = (self._writer, self._written, len(row), records[-1][3])
            self._written += len(row)
        if not records:
            return
        _append(self.folder / f"{self._writer}.values", np.concatenate(rows).tobytes())
        _append(self.folder / f"{self._writer}.index", np.array(records, dtype=_RECORD).tobytes())
        self._maps.pop(self._writer, None)

    def refresh(self) -> None:
        """See what other processes have written since."""
        for index in sorted(self.folder.glob("*.index")):
            values = index.with_suffix(".values")
            size = values.stat().st_size // 4 if values.exists() else 0
            raw = index.read_bytes()
            records = np.frombuffer(raw[: len(raw) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)
            for record in records:
                start, count = int(record["start"]), int(record["count"])
                if start + count <= size:
                    self._where.setdefault(
                        record["key"].tobytes(), (index.stem, start, count, int(record["check"]))
                    )
            self._maps.pop(index.stem, None)

    def is_complete(self, dataset: str) -> bool:
        """Whether a run went through all of `dataset` (any text that identifies it)."""
        return self._marker(dataset).exists()

    def mark_complete(self, dataset: str) -> None:
        self._marker(dataset).touch()

    def _marker(self, dataset: str) -> Path:
        return self.folder / f"{hashlib.blake2b(dataset.encode(), digest_size=16).hexdigest()}.complete"

    def _read(self, key: bytes) -> np.ndarray:
        writer, start, count, check = self._where[key]
        values = self._maps.get(writer)
        if values is None:
            file = self.folder / f"{writer}.values"
            # A killed writer may have left a part of a number at the end.
            values = np.memmap(file, dtype="<f4", mode="r", shape=(file.stat().st_size // 4,))
            self._maps[writer] = values
        row = values[start : start + count]
        if zlib.crc32(row.tobytes()) != check:
            raise ReferenceCacheError(
                f"the values in {self.folder} are damaged: delete the folder, and it is filled anew."
            )
        return row


def row_keys(
    input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, images: Sequence[bytes]
) -> list[bytes]:
    """One key of 16 bytes a row: its attended tokens, which of them are trained, and its images.

    `images[b]`: `image_digest` of row b's images. All tensors [2B, L], on the host.
    """
    keys = []
    for ids, seen, wanted, digest in zip(input_ids, attention_mask, response_mask, images, strict=True):
        attended = seen.bool()
        key = hashlib.blake2b(digest, digest_size=16)
        key.update(ids[attended].long().numpy().tobytes())
        key.update(wanted[attended].bool().numpy().tobytes())
        keys.append(key.digest())
    return keys


def image_digest(images: Iterable[Any]) -> bytes:
    """Of the content of a row's images, in order: PIL images, encoded bytes, paths, arrays or tensors, or
    the `{bytes, path}` of a dataset. A path counts by what its file holds. Raises `TypeError` for others."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str | Path):
            image = Path(image).read_bytes()
        if torch.is_tensor(image):
            image = image.cpu().numpy()
        if isinstance(image, bytes):
            digest.update(b"bytes" + len(image).to_bytes(8, "little") + image)
        elif isinstance(image, np.ndarray):
            digest.update(f"array {image.dtype} {image.shape}".encode() + image.tobytes())
        elif hasattr(image, "tobytes") and hasattr(image, "mode"):
            digest.update(f"image {image.mode} {image.size}".encode() + image.tobytes())
        else:
            raise TypeError(f"no image known here: {type(image).__name__}")
    return digest.digest()


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _other(folder: Path, found: dict, wanted: dict) -> str:
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
