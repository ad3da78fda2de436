"""Which layout the rows have, and which files have it: the first rows of each kind of file are looked at."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dataset_tools.convert.files import AnyFile, ZipMember
from dataset_tools.convert.gate import file_faults
from dataset_tools.convert.locate import Located
from dataset_tools.convert.readers import open_file
from dataset_tools.convert.select import Choice, choose, data_files
from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.sources import (
    REGISTRY,
    Options,
    Source,
    check_columns,
    check_mapping,
    recognised,
    source_class,
    unknown_layout,
)
from dataset_tools.sources.base import Pair
from dataset_tools.sources.guess import OTHER_SHAPES
from dataset_tools.sources.images import Embedded, looks_like_image


@dataclass
class Recognised:
    """The layout, the files that have it, those that are not read and why, and a sample of the columns."""

    source: Source
    files: list[tuple[AnyFile, str]]
    left: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def embeds_images(self) -> bool:
        """Whether the first rows hold their images themselves, so that none has to be looked for."""
        try:
            pairs = [item for item in self.source.pairs(self.columns) if isinstance(item, Pair)]
        except (BadRow, KeyError, TypeError, ValueError, AttributeError, IndexError):
            pairs = []
        images = [image for pair in pairs for image in pair.images]
        images = images or [value for value in self.columns.values() if isinstance(value, Embedded)]
        return bool(images) and all(isinstance(image, Embedded | bytes) for image in images)


def recognise(
    located: Located,
    source: str,
    out: str,
    kind: str | None,
    options: Options,
    split: str,
    config: str | None,
    patterns: list[str],
) -> Recognised:
    """Choose the files to read and find their layout. Raises `UsageError` that says what there is."""
    _check_not_converted(located)
    wanted = kind or ("jsonl" if options.columns else None)
    if wanted:
        check_mapping(source_class(wanted), options.columns)  # a wrong name is met before anything is read
    files = {name: located.file(name) for name in data_files(located.sizes) if name not in located.stale}
    where = located.location
    if not files:
        files = _inside_zips(located)
    published = [pattern for name in REGISTRY for pattern in source_class(name).published]
    within = files
    if located.patterns:
        within = {
            name: file for name, file in files.items() if any(fnmatch(name, p) for p in located.patterns)
        }
        if not within:
            raise UsageError(
                f"{' or '.join(located.patterns)} of {where} is no file that is read. {OTHER_SHAPES}"
            )
    single = len(located.patterns) == 1 and located.patterns[0] in files
    choices = choose(
        within,
        split,
        where,
        config=config,
        patterns=patterns or (located.patterns if single else ()),
        card=located.splits,
        published=published,
    )
    problems: list[UsageError] = []
    for choice in choices:
        try:
            found = _of_choice(choice, files, source, out, wanted, options, strict=bool(patterns) or single)
        except UsageError as error:
            problems.append(error)
            continue
        if "chosen_sentences" in found.columns:
            raise UsageError(_CONVERTED.format(where))
        found.left |= dict.fromkeys(sorted(located.stale), "not named by the state.json beside it")
        found.left |= (
            {name: "another file was asked for" for name in files if name not in within} if not single else {}
        )
        _check_used(found)
        return found
    raise problems[0]


_CONVERTED = (
    "{} was made by aspo-data, and converting it again would lose its licence, citation, similarities and "
    "untrained prefixes. Convert the original source instead (for fewer rows: with --limit); a converted "
    "dataset is trained, scored and pushed as it is."
)


def _check_not_converted(located: Located) -> None:
    """Raise `UsageError` for a folder that `aspo-data` wrote."""
    if "aspo.json" in located.sizes and not located.patterns:
        raise UsageError(_CONVERTED.format(located.location))


def _inside_zips(located: Located) -> dict[str, AnyFile]:
    """Files of rows that lie in zip files: `annotations.zip` before others."""
    archives = sorted(
        located.archives(".zip"), key=lambda file: ("annot" not in file.name.lower(), file.name)
    )
    for archive in archives:
        try:
            with zipfile.ZipFile(archive.open("rb")) as contents:
                sizes = {item.filename: item.file_size for item in contents.infolist() if not item.is_dir()}
        except (zipfile.BadZipFile, OSError):
            continue
        names = data_files(sizes)
        if names:
            return {name: ZipMember(name, sizes[name], archive) for name in names}
    return {}


def _of_choice(
    choice: Choice,
    files: Mapping[str, AnyFile],
    source: str,
    out: str,
    wanted: str | None,
    options: Options,
    strict: bool,
) -> Recognised:
    samples: dict[str, dict[str, Any]] = {}
    for name in choice.files:
        family = re.sub(r"\d+", "#", name)
        if family not in samples:
            with file_faults(files[name]):
                samples[family] = open_file(files[name], name, count=False).sample()
    of = {name: samples[re.sub(r"\d+", "#", name)] for name in choice.files}
    filled = {name: columns for name, columns in of.items() if columns}
    if not filled:
        raise _NoRows(f"{', '.join(choice.files[:3])} holds no rows.")
    kinds = {
        name: source_class(wanted) if wanted else recognised(columns) for name, columns in filled.items()
    }
    first = next((name for name, kind in kinds.items() if kind), None)
    if first is None:
        name = next(iter(filled))
        raise unknown_layout(filled[name], name, source, out)
    kind = kinds[first]
    assert kind is not None
    made = kind(_with_options_beside(kind, files[first], options))
    fitting = {name: columns for name, columns in filled.items() if not made.missing(columns)}
    others = {
        name: other.name for name, other in kinds.items() if other not in (None, kind) and name not in fitting
    }
    if others:
        listed = "; ".join(f"{name}: {other}" for name, other in [(first, kind.name), *others.items()][:8])
        raise UsageError(f"the files have several layouts ({listed}). Choose among them with --files GLOB.")
    if not fitting or (strict and len(fitting) < len(filled)):
        name = next(name for name in filled if name not in fitting)
        check_columns(made, filled[name], name)
    left = dict(choice.left)
    for name in choice.files:
        if name not in of or not of[name]:
            left[name] = "holds no rows"
        elif name not in fitting:
            left[name] = f"it has no column {', '.join(made.missing(of[name]))} of {kind.name}"
    columns: dict[str, Any] = {}
    for found in fitting.values():
        columns |= {name: value for name, value in found.items() if columns.get(name) is None}
    return Recognised(made, [(files[name], name) for name in choice.files if name in fitting], left, columns)


class _NoRows(DataError, UsageError):
    """There is a file and nothing in it."""


def _with_options_beside(kind: type[Source], file: AnyFile, options: Options) -> Options:
    if kind.name != "llamafactory" or not isinstance(file, Path):
        return options
    from dataset_tools.sources.llamafactory import options_beside

    return options_beside(file, options)


def _check_used(found: Recognised) -> None:
    """Raise `UsageError` where rows may do without images, but a column that is not read holds some."""
    source = found.source
    if source.images == "required":
        return
    mapped = source.options.columns.get("images")
    read = set(mapped.split(",") if mapped else source.image_columns)
    if any(found.columns.get(name) not in (None, "", []) for name in read) or _in_messages(found):
        return
    unread = [
        name for name, value in found.columns.items() if name not in read and looks_like_image(name, value)
    ]
    if unread:
        names = ",".join(unread)
        raise UsageError(
            f"{found.files[0][1]}: the column {', '.join(unread)} looks like images, but {source.name} reads "
            f"them from {' or '.join(sorted(read))}. Name it: --from jsonl --column images={names}, beside "
            "--column prompt=... and the like where these have other names; or rename it where it is "
            "something else."
        )


def _in_messages(found: Recognised) -> bool:
    try:
        pairs = [item for item in found.source.pairs(found.columns) if isinstance(item, Pair)]
    except (BadRow, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return False
    return any(pair.images for pair in pairs)
