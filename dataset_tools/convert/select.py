"""Which of a source's files are read: by config, split and `--files`; and why each other one is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from dataset_tools.convert.files import kind_of
from dataset_tools.errors import UsageError
from dataset_tools.sources.guess import OTHER_SHAPES

SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow", ".csv", ".tsv")
"""Endings of data files; of several kinds the first whose columns are known is read. `.gz` may follow."""
NOT_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "aspo.json",
    "config.json",
    "meta.json",
    "generate.json",
}
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_WORD = "|".join(sorted(SPLITS, key=len, reverse=True))
_SHARDED = re.compile(r"(?P<stem>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_LEADING = re.compile(rf"(?P<word>{_WORD})(?![a-z]).*", re.I)
_TRAILING = re.compile(rf".*(?<![a-z])(?P<word>{_WORD})[-_.]?\d*", re.I)


@dataclass
class Choice:
    """Files to read, in order, and the data files that are not read with the reason."""

    files: list[str]
    left: dict[str, str] = field(default_factory=dict)


def data_files(names: Iterable[str]) -> list[str]:
    """The names that look like files of rows."""
    return sorted(name for name in names if _is_data(name))


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    if path.name in NOT_DATA or any(part.startswith(".") for part in path.parts):
        return False
    # `map` of the datasets library leaves its caches beside what `save_to_disk` wrote.
    return kind_of(name) in SUFFIXES and not (path.name.startswith("cache-") and path.suffix == ".arrow")


def choose(
    names: Iterable[str],
    split: str,
    where: str,
    config: str | None = None,
    patterns: Iterable[str] = (),
    card: Mapping[str, Any] | None = None,
    published: Iterable[str] = (),
) -> list[Choice]:
    """The files that may hold the rows asked for: one choice for each kind of file, the likeliest first.

    `published` are name patterns of files that known datasets are published with: where one is there, it
    holds the pairs and the others do not. Raises `UsageError` that names what there is to choose from.
    """
    data, patterns = data_files(names), list(patterns)
    if not data:
        raise UsageError(f"{where} holds no {', '.join(SUFFIXES)} file. {OTHER_SHAPES}")
    if patterns:
        chosen = [name for name in data if any(_fits(name, pattern) for pattern in patterns)]
        if not chosen:
            raise UsageError(f"{where} has no file {' or '.join(patterns)}: it has {_some(data)}.")
        return [_choice(chosen, data, "not among --files")]
    known = [name for name in data if any(fnmatch(PurePosixPath(name).name, each) for each in published)]
    if known and not config:
        choice = _of_names(known, split, config, where)
        reason = "not the file of pairs that this dataset is published with"
        choice.left |= {name: reason for name in data if name not in known}
        return [choice]
    declared = _declared(card or {}, data)
    if declared:
        return [_of_declared(declared, data, split, config, where)]
    kinds = [kind for kind in SUFFIXES if any(kind_of(name) == kind for name in data)]
    choices, refused = [], None
    for kind in kinds:
        same = [name for name in data if kind_of(name) == kind]
        try:
            choice = _of_names(same, split, config, where)
        except UsageError as error:
            refused = refused or error
            continue
        for name in data:
            choice.left.update({name: f"{kind} files are read"} if kind_of(name) != kind else {})
        choices.append(choice)
    if not choices:
        raise refused or UsageError(f"{where} has no split {split}.")
    return choices


def _fits(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(PurePosixPath(name).name, pattern)


def _some(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _choice(files: list[str], data: Iterable[str], reason: str) -> Choice:
    return Choice(files, {name: reason for name in data if name not in set(files)})


# What the card declares


def _declared(card: Mapping[str, Any], data: list[str]) -> dict[str, dict[str, list[str]]]:
    """Config to split to files, of the `configs` in a card's header; empty where it declares none."""
    found: dict[str, dict[str, list[str]]] = {}
    configs = card.get("configs")
    for entry in configs if isinstance(configs, list) else []:
        if not isinstance(entry, Mapping) or "data_files" not in entry:
            continue
        files = entry["data_files"]
        if isinstance(files, Mapping):
            files = [{"split": name, "path": path} for name, path in files.items()]
        if not isinstance(files, list):
            files = [files]
        splits: dict[str, list[str]] = {}
        for item in files:
            item = item if isinstance(item, Mapping) else {"split": "train", "path": item}
            path = item.get("path")
            paths = path if isinstance(path, list) else [path]
            matching = [name for name in data if any(_fits_path(name, str(path)) for path in paths)]
            splits.setdefault(str(item.get("split", "train")), []).extend(matching)
        if any(splits.values()):
            found[str(entry.get("config_name", "default"))] = splits
            if entry.get("default") is True:
                found = {"default": splits, **found}
    return found


def _fits_path(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern.removeprefix("./"))


def _of_declared(
    declared: dict[str, dict[str, list[str]]], data: list[str], split: str, config: str | None, where: str
) -> Choice:
    if config is None and len(declared) > 1 and "default" not in declared:
        raise UsageError(f"{where} has several configs: name one with --config: {', '.join(declared)}.")
    name = config or ("default" if "default" in declared else next(iter(declared)))
    if name not in declared:
        raise UsageError(f"{where} has no config {name}: it has {', '.join(declared)}.")
    splits = declared[name]
    if split not in splits:
        raise UsageError(f"{where} has no split {split}: {_instead(sorted(splits))}")
    chosen = splits[split]
    if not chosen:
        raise UsageError(f"{where}: the files that its card names for split {split} are not there.")
    left = {}
    for other, files in ((f"split {key}", value) for key, value in splits.items() if key != split):
        left.update({file: f"of {other}" for file in files})
    for key, others in declared.items():
        if key not in (name, "default"):
            left.update({file: f"of config {key}" for files in others.values() for file in files})
    left = {file: left.get(file, "not named by the dataset's card") for file in data if file not in chosen}
    return Choice(chosen, left)


# What the names say


def split_of(name: str) -> tuple[str, str] | None:
    """The split that a file's name or folder names, as (its own name, its usual name), if any.

    `data/train_prefs-00000-of-00001.parquet` is of ("train_prefs", "train"), `val/rows.jsonl` of
    ("validation", "validation"). A word inside a name (`m3cot_train_extracted.jsonl`) says nothing.
    """
    path = PurePosixPath(name)
    stem = path.name.removesuffix(".gz")
    stem = stem.removesuffix(PurePosixPath(stem).suffix)
    sharded = _SHARDED.fullmatch(stem)
    stem = sharded["stem"] if sharded else stem
    if stem.lower() in SPLITS:
        return SPLITS[stem.lower()], SPLITS[stem.lower()]
    for pattern in (_LEADING, _TRAILING):
        match = pattern.fullmatch(stem)
        if match:
            usual = SPLITS[match["word"].lower()]
            plain = re.fullmatch(rf"({_WORD})[-_.]?\d*", stem, re.I) or (pattern is _TRAILING and not sharded)
            return (usual if plain else stem), usual
    for part in reversed(path.parts[:-1]):
        if part.lower() in SPLITS:
            return SPLITS[part.lower()], SPLITS[part.lower()]
    return (stem, stem) if sharded else None


def config_of(name: str) -> str:
    """The folders of a file that name a config: all but `data` and those of splits."""
    parts = PurePosixPath(name).parts[:-1]
    return "/".join(part for part in parts if part != "data" and part.lower() not in SPLITS)


def _of_names(data: list[str], split: str, config: str | None, where: str) -> Choice:
    left: dict[str, str] = {}
    if config is not None:
        configs = sorted({config_of(name) for name in data} - {""})
        chosen = [name for name in data if config in (config_of(name), *PurePosixPath(name).parts[:-1])]
        if not chosen:
            raise UsageError(f"{where} has no config {config}: it has {', '.join(configs) or 'none'}.")
        left = {name: f"not of config {config}" for name in data if name not in chosen}
        data = chosen
    chosen = _of_split(data, split, where)
    left |= {name: _why_not(name) for name in data if name not in chosen}
    configs = sorted({config_of(name) for name in chosen})
    if len(configs) > 1 and config is None:
        raise UsageError(
            f"{where} has files in several folders: {_some(item or '.' for item in configs)}. Name one with "
            "--config, or what to read with --files GLOB (--files '*' for all)."
        )
    return Choice(chosen, left)


def _of_split(data: list[str], split: str, where: str) -> list[str]:
    found = {name: split_of(name) for name in data}
    stems = {item for item in found.values() if item}
    if len(stems) == 1 and split == "train" and next(iter(stems))[1] not in SPLITS.values():
        return data  # `myset-00000-of-00010`: a name, and no split
    usual = SPLITS.get(split, split)
    exact = [name for name in data if found[name] and split in found[name][:1]]  # type: ignore[index]
    exact = exact or [name for name in data if found[name] and found[name][0] == usual]  # type: ignore[index]
    matching = exact or [name for name in data if found[name] and found[name][1] == usual]  # type: ignore[index]
    own = sorted({item[0] for name in matching if (item := found[name])})
    if len(own) > 1:
        raise UsageError(
            f"{where} has several splits of the kind {split}: name one with --split: {', '.join(own)}."
        )
    unnamed = [name for name in data if not found[name]]
    if usual == "train" and unnamed and not (stems - {("train", "train")}):
        return data  # nothing is set apart for another use
    if not matching:
        splits = sorted({item[0] for item in found.values() if item} | ({"train"} if unnamed else set()))
        if usual == "train" and unnamed:
            return unnamed
        raise UsageError(f"{where} has no split {split}: {_instead(splits)}")
    return matching


def _why_not(name: str) -> str:
    found = split_of(name)
    return f"of split {found[0]}" if found else "names no split, and other files do"


def _instead(splits: list[str]) -> str:
    """What to ask for where the split is not there."""
    if len(splits) == 1:
        return f"its files are of {splits[0]}. Add --split {splits[0]}."
    return f"its files are of {', '.join(splits)}: name one with --split."
