"""JSON Schema of an Axolotl config that knows `rl: aspo` and its block, for editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aspo_plugin.config import json_schema


def config_schema() -> dict[str, Any]:
    """The schema of the installed host's configs with ASPO's keys; of those alone without a host."""
    schema = _host()
    properties = schema.setdefault("properties", {})
    properties["aspo"] = {
        "description": "Settings of `rl: aspo`.",
        "type": ["object", "null"],
        "properties": json_schema(),
        "additionalProperties": False,
    }
    before = properties.get("rl", {"type": ["string", "null"]})
    properties["rl"] = {
        **{key: before[key] for key in ("description", "default") if key in before},
        "anyOf": [{"const": "aspo", "description": "Sentence-level preferences, by aspo-plugin."}, before],
    }
    if refused := _refused():
        schema.setdefault("allOf", []).append(
            {
                "if": {"properties": {"rl": {"const": "aspo"}}, "required": ["rl"]},
                "then": {"properties": refused},
            }
        )
    return schema


def _host() -> dict[str, Any]:
    """What `axolotl config-schema` is made of, also where a value has no JSON form (a torch.dtype)."""
    try:
        from axolotl.utils.schemas.config import AxolotlInputConfig
    except ModuleNotFoundError:
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Axolotl config with rl: aspo",
            "type": "object",
        }
    from pydantic.json_schema import GenerateJsonSchema

    class Plain(GenerateJsonSchema):
        """Where a value has no JSON form, such as a torch.dtype, anything is taken."""

        def encode_default(self, dft: Any) -> Any:
            return _or(lambda: super(Plain, self).encode_default(dft), str(dft))

        def enum_schema(self, schema: Any) -> Any:
            return _or(lambda: super(Plain, self).enum_schema(schema), {})

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Any:
            return {}

    found: dict[str, Any] = AxolotlInputConfig.model_json_schema(schema_generator=Plain)
    return found


def _or(made: Callable[[], Any], other: Any) -> Any:
    from pydantic_core import PydanticSerializationError

    try:
        return made()
    except PydanticSerializationError:
        return other


def _refused() -> dict[str, Any]:
    """Keys that do not go with `rl: aspo`, with the values that they may have all the same."""
    try:
        from .arguments import REFUSED
    except ModuleNotFoundError:
        return {}
    return {
        key: {"enum": [None, *allowed], "description": f"Not with rl: aspo, because {why}."}
        for key, (allowed, why) in REFUSED.items()
    }
