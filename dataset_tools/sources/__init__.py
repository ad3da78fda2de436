"""The sources that `aspo-data convert` reads, one file each.

docs/data.md, "Add a source", says what a new one needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dataset_tools.errors import BadRow, SkippedPair, UsageError
from dataset_tools.nearest import did_you_mean
from dataset_tools.sources.base import Options, Pair, Source
from dataset_tools.sources.guess import OTHER_SHAPES, proposal

# Name of `--from` to module and class. Recognition by columns tries them in this order: the particular first.
REGISTRY: dict[str, tuple[str, str]] = {
    "rlaif-v": ("rlaif_v", "RlaifV"),
    "rlhf-v": ("rlhf_v", "RlhfV"),
    "bpo": ("bpo", "Bpo"),
    "vlfeedback": ("vlfeedback", "VlFeedback"),
    "vl-rewardbench": ("ranked", "Ranked"),
    "arena": ("arena", "Arena"),
    "sentinel": ("sentinel", "Sentinel"),
    "ms-swift": ("ms_swift", "MsSwift"),
    "povid": ("povid", "Povid"),
    "seva": ("seva", "Seva"),
    "llava-preference": ("llava_preference", "LlavaPreference"),
    "llamafactory": ("llamafactory", "LlamaFactory"),
    "trl": ("trl", "Trl"),
    "mmpr": ("mmpr", "Mmpr"),
    "jsonl": ("jsonl", "JsonLines"),
}


def source_class(name: str) -> type[Source]:
    """The class of a source. Raises `UsageError` with the known names."""
    if name not in REGISTRY:
        raise UsageError(
            f"--from {name} is not a known source: choose one of {', '.join(REGISTRY)}."
            f"{did_you_mean(name, REGISTRY)}"
        )
    module, attribute = REGISTRY[name]
    found: type[Source] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return found


def recognised(columns: Mapping[str, Any]) -> type[Source] | None:
    """The source whose rows have these columns (name to sample value), if any."""
    for name in REGISTRY:
        kind = source_class(name)
        if kind.matches(columns):
            return kind
    return None


def unknown_layout(columns: Mapping[str, Any], where: str, source: str, out: str) -> UsageError:
    """The error for rows of no known source, with the command that may read them."""
    names = sorted(columns)
    shown = ", ".join(names[:60]) + (f" and {len(names) - 60} more" if len(names) > 60 else "")
    return UsageError(
        f"{where} has the columns {shown}, which no known source has. If each row is one pair, name its "
        "columns:\n"
        f"  {proposal(columns, source, out)}\n"
        f"Known sources (--from): {', '.join(REGISTRY)}; docs/data.md says what each reads.\n"
        f"{OTHER_SHAPES}"
    )


def check_columns(source: Source, columns: Mapping[str, Any], where: str) -> None:
    """Raise `UsageError` where a column that the source needs is not there, naming what was found."""
    missing = source.missing(columns)
    if missing:
        raise UsageError(
            f"{where} does not look like {source.name}: it has no column {', '.join(missing)}. "
            f"Found: {', '.join(sorted(columns)[:60]) or 'no columns'}. "
            f"Expected: {', '.join(source.columns)}.{_nearest(missing, columns)}"
        )


def _nearest(missing: list[str], columns: Mapping[str, Any]) -> str:
    """For the first of the missing columns that is near one that is there."""
    return next((hint for name in missing if (hint := did_you_mean(name, columns))), "")


def check_mapping(kind: type[Source], mapping: Mapping[str, str]) -> None:
    """Raise `UsageError` where `--column` names what the source does not map."""
    for name in mapping:
        if name not in kind.mapped:
            able = ", ".join(each for each in REGISTRY if source_class(each).mapped)
            raise UsageError(
                f"--column {name}={mapping[name]}: {kind.name} maps {', '.join(kind.mapped)}."
                f"{did_you_mean(name, kind.mapped)}"
                if kind.mapped
                else f"--column {name}={mapping[name]}: the columns of {kind.name} have fixed names. "
                f"Columns are mapped with --from {able.replace(', ', ' or ')}."
            )


__all__ = [
    "REGISTRY",
    "BadRow",
    "Options",
    "Pair",
    "SkippedPair",
    "Source",
    "check_columns",
    "check_mapping",
    "recognised",
    "source_class",
    "unknown_layout",
]
