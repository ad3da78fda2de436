"""Under what a row's reference log-probs are kept: everything that the model is given for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEYS = "aspo_reference_keys"
"""Key of a batch under which collators put `row_keys`, a list of bytes that stays on the host."""

_CHUNK = 2**22


def row_keys(
    input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, media: Sequence[bytes]
) -> list[bytes]:
    """One key of 16 bytes a row: its attended tokens, which of them are trained, and its media.

    `media[b]`: `media_digest` of row b. All tensors [2B, L], on the host.
    """
    keys = []
    for ids, seen, wanted, digest in zip(input_ids, attention_mask, response_mask, media, strict=True):
        attended = seen.bool()
        key = hashlib.blake2b(digest, digest_size=16)
        key.update(ids[attended].long().numpy().tobytes())
        key.update(wanted[attended].bool().numpy().tobytes())
        keys.append(key.digest())
    return keys


def media_digest(
    images: Iterable[Any] | None = None,
    videos: Iterable[Any] | None = None,
    audios: Iterable[Any] | None = None,
) -> bytes:
    """Of the content of all that a row has besides tokens, in order: 16 bytes.

    An item is encoded bytes, a path, a PIL image, an array or tensor, a list of these (the frames of a
    video), or a dataset's `{bytes, path}` or `{array, sampling_rate}`. A path counts by what its file holds.
    Raises `TypeError` for others.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, items in (("images", images), ("videos", videos), ("audios", audios)):
        parts = [_content(item, name) for item in (() if items is None else items)]
        digest.update(f"{name} {len(parts)} ".encode() + b"".join(parts))
    return digest.digest()


def _content(item: Any, name: str) -> bytes:
    if isinstance(item, Mapping):
        if item.get("array") is not None:
            return _digest(f"sound {item.get('sampling_rate')}", _content(np.asarray(item["array"]), name))
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if isinstance(item, str | Path):
        status = Path(item).stat()
        return _of_file(str(item), status.st_size, status.st_mtime_ns)
    if isinstance(item, list | tuple):
        return _digest(f"list {len(item)}", *(_content(part, name) for part in item))
    if torch.is_tensor(item):
        item = item.cpu().numpy()
    if isinstance(item, bytes):
        return _digest("bytes", item)
    if isinstance(item, np.ndarray):
        return _digest(f"array {item.dtype} {item.shape}", item.tobytes())
    if hasattr(item, "tobytes") and hasattr(item, "mode"):
        return _digest(f"image {item.mode} {item.size}", item.tobytes())
    raise TypeError(
        f"a reference cache cannot tell {name} of the type {type(item).__name__} apart: give files, encoded "
        "bytes, pictures or arrays, or switch the reference cache off."
    )


def _digest(kind: str, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(f"{kind} ".encode(), digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


@lru_cache(maxsize=65536)
def _of_file(path: str, size: int, changed: int) -> bytes:
    """As of the file's bytes; a file is read again only where its size or its time has changed."""
    digest = hashlib.blake2b(b"bytes ", digest_size=16)
    with open(path, "rb") as stream:
        while data := stream.read(_CHUNK):
            digest.update(data)
    return digest.digest()
