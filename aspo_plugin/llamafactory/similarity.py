"""`aspo_similarity_model`: scores in one pass before preprocessing, kept on disk for the next run."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llamafactory.extras import logging

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.randomness import same_randomness

from .checks import STREAM_PEEK, has_value, no_rejected, no_similarities

logger = logging.get_logger("llamafactory.aspo")


def check_similarities(dataset: Any, name: str, settings: AspoSettings) -> None:
    """Refuse an aligned dataset that has images and no similarity of a needed kind. Raises `ValueError`."""
    sides = ("chosen", "rejected") if settings.weight_rejected else ("chosen",)
    rows = None if hasattr(dataset, "__len__") else list(dataset.take(STREAM_PEEK))
    for side in sides:
        column = f"_{side}_similarity"
        if rows is None:
            images, known = has_value(dataset.data.column("_images")), has_value(dataset.data.column(column))
        else:
            images = any(row["_images"] for row in rows)
            known = any(value is not None for row in rows for value in row[column] or [])
        if images and not known:
            told = name if rows is None else f"{name} (its first {len(rows)} rows)"
            raise no_similarities(told, settings.alpha) if side == "chosen" else no_rejected(told)


def sentences_of(row: dict[str, Any]) -> list[str]:
    """The sentences of the chosen response of an aligned row."""
    if not row["_response"]:
        return []
    text = row["_response"][0]["content"]
    return [text[start:end] for start, end in row["_chosen_sentences"]]


def row_key(identity: dict[str, str], row: dict[str, Any]) -> str:
    """Digest of what a row's similarities depend on: model, sentences and image content."""
    digest = hashlib.sha256(json.dumps([identity, sentences_of(row)], sort_keys=True).encode())
    for image in row["_images"] or []:
        content = image["bytes"] if image["bytes"] is not None else _file(image["path"])
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _file(path: str) -> bytes:
    """Empty where it cannot be read: such a row scores nothing, and is refused when it is tokenized."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def cache_file(model: str, cache_dir: str | None) -> Path:
    """Where a model's similarities are kept: in `$ASPO_CACHE`, else the host's `cache_dir`, else HF_HOME."""
    from datasets import config

    folder = os.environ.get("ASPO_CACHE") or cache_dir or str(config.HF_CACHE_HOME)
    return Path(folder) / "aspo_similarity" / (hashlib.sha256(model.encode()).hexdigest()[:16] + ".jsonl")


def _read(path: Path) -> dict[str, list[float | None]]:
    if not path.is_file():
        return {}
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            key, similarity = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing
            continue
        known[key] = similarity
    return known


def attach_similarities(dataset: Any, model: str, cache_dir: str | None, device: Any = None) -> Any:
    """Fill `_chosen_similarity` of the aligned rows that have images and no similarities.

    Rows scored before by the same model, with the same sentences and images, are read from `cache_file`; the
    others are scored here and added to it line by line, so that a killed run does not start anew. The host
    lets the main process of each machine do this first; the others then find every row in the file.
    """
    from datasets import Sequence, Value
    from tqdm import tqdm

    from dataset_tools.scoring.scorer import SentenceScorer, free_device_memory, identify

    wanted = [
        i
        for i, (images, similarity) in enumerate(
            zip(dataset.data.column("_images"), dataset.data.column("_chosen_similarity"), strict=True)
        )
        if images.is_valid and len(images) and not similarity.is_valid
    ]
    if not wanted:
        return dataset
    identity, path = identify(model).as_dict(), cache_file(model, cache_dir)
    known = _read(path)
    keys = {i: row_key(identity, dataset[i]) for i in wanted}
    missing = list({key: i for i, key in keys.items() if key not in known}.values())
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.info_rank0(f"Scoring {len(missing)} responses with {model}; kept in {path}.")
        rows = ((row["_images"], sentences_of(row)) for row in (dataset[i] for i in missing))
        # Loading a model draws random numbers in transformers 4; a run that reads its scores draws none.
        # Unbuffered, so that each line is one write: another run may add to the file at the same time.
        with path.open("ab", buffering=0) as file, same_randomness():
            scorer = SentenceScorer(model, device=device)
            scored = tqdm(scorer.score(rows), total=len(missing), desc="Scoring sentences")
            for i, similarity in zip(missing, scored, strict=True):
                known[keys[i]] = similarity
                file.write(json.dumps([keys[i], similarity]).encode() + b"\n")
        del scorer, scored
        free_device_memory()
    values = dataset.data.column("_chosen_similarity").to_pylist()
    for i, key in keys.items():
        values[i] = known[key]
    feature = Sequence(Value("float32"))
    return (
        dataset.remove_columns("_chosen_similarity")
        .add_column("_chosen_similarity", values)
        .cast_column("_chosen_similarity", feature)
    )
