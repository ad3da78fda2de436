"""JSON Schema of a LLaMA-Factory recipe with `stage: aspo`, for editors."""

from __future__ import annotations

import dataclasses
import enum
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aspo_plugin.config import json_schema

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}


def recipe_schema() -> dict[str, Any]:
    """Every key of a training recipe of the installed host and of ASPO; without a host, of ASPO alone."""
    own = {key: {**value, "default": None} for key, value in json_schema("aspo_{}").items()}
    try:
        import torch  # noqa: F401  # before the host: the hook that adds the stage comes with it
        from llamafactory.hparams.parser import _TRAIN_ARGS
    except ModuleNotFoundError:
        stages: list[str] = []
        keys: dict[str, Any] = {}
    else:
        keys = {key: value for group in _TRAIN_ARGS for key, value in _keys(group).items()}
        stages = [stage for stage in keys["stage"]["enum"] if stage != "aspo"]
    keys["stage"] = {**keys.get("stage", {}), "enum": [*stages, "aspo"]} if stages else {"type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "LLaMA-Factory recipe with stage: aspo",
        "type": "object",
        "properties": {**keys, **own},
        # Of another stage an `aspo_*` key has no effect, and the run stops.
        "dependentSchemas": {key: {"properties": {"stage": {"const": "aspo"}}} for key in own},
    }


def _keys(group: type) -> dict[str, dict[str, Any]]:
    hints = get_type_hints(group)
    found = {}
    for field in dataclasses.fields(group):
        if not field.init:
            continue
        schema = _schema(hints[field.name])
        if text := field.metadata.get("help"):
            schema["description"] = text
        if isinstance(field.default, str | int | float | bool) and not isinstance(field.default, enum.Enum):
            schema["default"] = field.default
        found[field.name] = schema
    return found


def _schema(hint: Any) -> dict[str, Any]:
    """What a hint takes of YAML; {} (anything) where that is not plain."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_schema(part) for part in get_args(hint)]
        return {} if {} in parts else {"anyOf": parts}
    if hint is type(None):
        return {"type": "null"}
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [item.value for item in hint]}
    kind = _KINDS.get(get_origin(hint) or hint)
    if kind is None:
        return {}
    # The parser turns texts into numbers, as they stand on a command line.
    return {"type": ["number", "string"] if kind == "number" else kind}
