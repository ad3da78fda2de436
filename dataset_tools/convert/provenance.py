"""Where a source is from: its licence and citation, and, of generated pairs, who wrote the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dataset_tools.convert.locate import Located
from dataset_tools.sources.origin import CARD, Origin, declared_licence, declared_sources, origin_of

_MOST_BYTES = 16 << 20
_TOLD = ("source", "revision", "models", "recipe", "sampling", "seed")


def known_origin(located: Located, generated: Mapping[str, Any] | None = None) -> Origin | None:
    """The known dataset that rows, or the prompts and images of generated ones, are from."""
    repositories = [located.location, *_sources(located, generated)]
    return origin_of(repositories, located.sizes)


def provenance(
    located: Located, origin: Origin | None, generated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Licence, citation, address and sources, for a record and the card that is made of it."""
    licence, told_by = declared_licence(located.card), f"../{CARD}" if located.above else CARD
    if licence is None and origin and origin.license:
        licence, told_by = origin.license, origin.url or origin.name
    return {
        "license": licence,
        "license_from": told_by if licence else None,
        "origin_license": origin.license if origin else None,
        "citation": origin.citation if origin else None,
        "url": _page(located) or (origin.url if origin else None),
        "source_datasets": _sources(located, generated),
    }


def _page(located: Located) -> str | None:
    on_hub = located.revision and "/" in located.location
    return f"https://huggingface.co/datasets/{located.location}" if on_hub else None


def _sources(located: Located, generated: Mapping[str, Any] | None) -> list[str]:
    asked = str((generated or {}).get("source"))
    return list(dict.fromkeys([*declared_sources(located.card), *([asked] if "/" in asked else [])]))


def generated_by(located: Located) -> dict[str, Any] | None:
    """How the answers of a folder that `generate` made came to be; None for any other source."""
    record = located.generated
    if record is None:
        return None
    try:
        with record.open("rb") as stream:
            found = json.loads(stream.read(_MOST_BYTES))
        if not isinstance(found["models"]["answers"]["model"], str) or not isinstance(found["recipe"], dict):
            return None
        told = {key: found[key] for key in _TOLD}
        # The files of a local model tell it from others on --resume, and nothing to a reader.
        told["models"] = {
            part: {key: value for key, value in model.items() if key != "files"}
            for part, model in found["models"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # another tool's file of that name
    return told
