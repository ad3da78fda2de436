"""Does a dataset have the columns and shapes that dataset_info.json says? Its first row tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .contract import FORMATTING

INFO = "dataset_info.json"


def check_columns(row: Mapping[str, Any], attribute: Any, name: str) -> None:
    """Raises `ValueError` naming the column of dataset `name`, and the shape that was expected of it."""
    if attribute.formatting == FORMATTING:
        for column in ("prompt", "chosen", "rejected"):
            _present(row, column, f"`formatting: {FORMATTING}`", name)
        return
    alpaca = attribute.formatting == "alpaca"
    texts = ("prompt", "query", "history") if alpaca else ("messages",)
    for key in (*texts, "system", "tools", "images", "videos", "audios"):
        column = getattr(attribute, key)
        if column is not None:
            _present(row, column, f'`"{key}"` in `"columns"`', name)
    for key in ("chosen", "rejected"):
        column = getattr(attribute, key)
        if column is None:
            raise ValueError(
                f'dataset {name} is marked `"ranking": true` in {INFO}, but its `"columns"` name no '
                f'`"{key}"`: add `"{key}": "<column>"`.'
            )
        _present(row, column, f'`"{key}"` in `"columns"`', name)
        _check_response(row[column], column, attribute, name, alpaca)
    if not alpaca:
        _check_messages(row[attribute.messages], attribute, name)


def _present(row: Mapping[str, Any], column: str, named_by: str, name: str) -> None:
    if column not in row:
        raise ValueError(
            f"dataset {name} has no column `{column}`, which {named_by} of {INFO} asks for. Its columns are "
            f"{', '.join(row)}: correct the entry."
        )


def _check_response(value: Any, column: str, attribute: Any, name: str, alpaca: bool) -> None:
    expected: Any = str if alpaca else Mapping
    if value is None or isinstance(value, expected):
        if isinstance(value, Mapping):
            _check_tags(value, f"column `{column}`", attribute, name)
        return
    shape = (
        "a text"
        if alpaca
        else f'one message, `{{"{attribute.role_tag}": ..., "{attribute.content_tag}": ...}}`'
    )
    other = "sharegpt or openai" if alpaca else "alpaca"
    raise ValueError(
        f'column `{column}` of dataset {name} holds {_kind(value)}, but `"formatting": '
        f'"{attribute.formatting}"` expects {shape} in it. Change the data, or take a `"formatting"` that '
        f"fits ({other})."
    )


def _check_messages(value: Any, attribute: Any, name: str) -> None:
    column = attribute.messages
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise ValueError(
            f'column `{column}` of dataset {name} holds {_kind(value)}, but `"formatting": '
            f'"{attribute.formatting}"` expects a list of messages in it.'
        )
    for turn in value:
        _check_tags(turn, f"column `{column}`", attribute, name)


def _check_tags(turn: Mapping[str, Any], where: str, attribute: Any, name: str) -> None:
    for tag in ("role_tag", "content_tag"):
        key = getattr(attribute, tag)
        if key not in turn:
            raise ValueError(
                f"a message in {where} of dataset {name} has no `{key}`: its keys are {', '.join(turn)}. Set "
                f'`"tags": {{"role_tag": ..., "content_tag": ...}}` of {INFO} to the names that the data has.'
            )


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return next((text for kind, text in names.items() if isinstance(value, kind)), type(value).__name__)
