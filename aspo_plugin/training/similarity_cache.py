"""The similarities that `similarity_model` gives before training, kept on disk: one cache for every host."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .randomness import same_randomness

Row = tuple[Sequence[Mapping[str, Any]], Sequence[str]]
"""The images of a row, each `{bytes, path}`, and the sentences of its response."""


def cache_file(model: str, folder: str | Path | None = None) -> Path:
    """Where a model's similarities are kept: in `$ASPO_CACHE`, else the host's `folder`, else HF_HOME."""
    from huggingface_hub import constants

    place = os.environ.get("ASPO_CACHE") or folder or constants.HF_HOME
    return Path(place) / "aspo_similarity" / (hashlib.sha256(model.encode()).hexdigest()[:16] + ".jsonl")


def row_key(identity: Mapping[str, str], row: Row) -> str:
    """Digest of what a row's similarities depend on: model, sentences and image content."""
    images, sentences = row
    digest = hashlib.sha256(json.dumps([dict(identity), list(sentences)], sort_keys=True).encode())
    for image in images:
        content = image["bytes"] if image["bytes"] is not None else _file(image["path"])
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def similarities(
    model: str,
    wanted: Sequence[int],
    read: Callable[[int], Row],
    *,
    folder: str | Path | None = None,
    device: Any = None,
    tell: Callable[[str], None],
) -> dict[int, list[float | None]]:
    """Of each row in `wanted`, which `read` gives by its number: one similarity per sentence, None: unknown.

    Rows scored before by the same model, with the same sentences and images, are read from `cache_file`; the
    others are scored here and added to it line by line, so that a killed run does not start anew, and two
    runs that score one set at the same time both go on. `tell` is told what is scored. Raises the errors of
    `dataset_tools.scoring.scorer`.
    """
    from tqdm import tqdm

    from dataset_tools.scoring.scorer import SentenceScorer, free_device_memory, identify

    identity, path = identify(model).as_dict(), cache_file(model, folder)
    known = _read(path)
    keys = {number: row_key(identity, read(number)) for number in wanted}
    missing = list({key: number for number, key in keys.items() if key not in known}.values())
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        tell(f"Scoring {len(missing)} responses with {model}; kept in {path}.")
        # Loading a model draws random numbers in transformers 4; a run that reads its scores draws none.
        # Unbuffered, so that each line is one write: another run may add to the file at the same time.
        with path.open("ab", buffering=0) as file, same_randomness():
            scorer = SentenceScorer(model, device=device)
            scored = tqdm(scorer.score(map(read, missing)), total=len(missing), desc="Scoring sentences")
            for number, values in zip(missing, scored, strict=True):
                known[keys[number]] = values
                file.write(json.dumps([keys[number], values]).encode() + b"\n")
        del scorer, scored
        free_device_memory()
    return {number: known[key] for number, key in keys.items()}


def _file(path: str | None) -> bytes:
    """Empty where it cannot be read: such a row scores nothing, and is refused when it is tokenized."""
    from dataset_tools.images.opening import UnusableImage, file_bytes

    try:
        return file_bytes(path) if path else b""
    except UnusableImage:
        return b""


def _read(path: Path) -> dict[str, list[float | None]]:
    if not path.is_file():
        return {}
    known = {}
    for line in path.read_bytes().splitlines():
        try:
            key, values = json.loads(line)
        except (ValueError, TypeError):  # a run that was killed while writing
            continue
        if isinstance(key, str) and isinstance(values, list):
            known[key] = values
    return known
