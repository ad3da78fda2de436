"""LLaMA-Factory's FinetuningArguments with `stage: aspo` and the `aspo_*` fields."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_type_hints

from aspo_plugin.config import AspoSettings, settings_from

from .checks import check_stage_fields
from .contract import check_way

PREFIX = "aspo_"
STAGE = "aspo"
_SETTINGS = dataclasses.fields(AspoSettings)
# Every `stage == "dpo"` of the host is meant for ASPO too: reference model, refused quantisation, evaluation.
HOST_STAGE = "dpo"


def settings_of(finetuning_args: Any) -> AspoSettings:
    """The validated settings of a run; raises `ValueError` naming the field as the user wrote it."""
    given = {field.name: getattr(finetuning_args, PREFIX + field.name) for field in _SETTINGS}
    return settings_from({name: value for name, value in given.items() if value is not None}, PREFIX + "{}")


def is_aspo(finetuning_args: Any) -> bool:
    """Whether the user asked for `stage: aspo`, which the host itself sees as `dpo`."""
    return getattr(finetuning_args, "is_aspo", False)


def extend(base: type) -> type:
    """A dataclass like `base` (the host's FinetuningArguments) that also takes `stage: aspo`.

    An `aspo_*` field is None until a `stage: aspo` run fills in its default: so one that stands in the recipe
    of another stage is told from one that does not.
    """
    hints = get_type_hints(AspoSettings)
    stages = Literal[(*get_args(get_type_hints(base)["stage"]), STAGE)]  # type: ignore[valid-type]
    stage = next(field for field in dataclasses.fields(base) if field.name == "stage")
    fields: list[tuple[str, Any, Any]] = [
        ("stage", stages, dataclasses.field(default=stage.default, metadata=dict(stage.metadata)))
    ]
    for field in _SETTINGS:
        choices = field.metadata.get("choices")
        kind = Literal[tuple(choices)] if choices else hints[field.name]
        text = "ASPO: " + field.metadata["help"]
        if field.default is not None:
            text += f" If not set: {field.default}."
        copy = dataclasses.field(default=None, metadata={"help": text})
        fields.append((PREFIX + field.name, kind | None, copy))

    def __post_init__(self: Any) -> None:
        self.is_aspo = self.stage == STAGE
        written = [
            PREFIX + field.name for field in _SETTINGS if getattr(self, PREFIX + field.name) is not None
        ]
        if self.is_aspo:
            settings = settings_of(self)
            for name, value in dataclasses.asdict(settings).items():
                setattr(self, PREFIX + name, value)
            check_stage_fields(self)
            check_way()
            self.stage = HOST_STAGE
        elif written:
            raise ValueError(
                f"{', '.join(written)} has no effect with `stage: {self.stage}`: "
                f"set `stage: {STAGE}`, or remove the key."
            )
        base.__post_init__(self)  # type: ignore[attr-defined]

    def to_dict(self: Any) -> dict[str, Any]:
        values = base.to_dict(self)  # type: ignore[attr-defined]
        return {**values, "stage": STAGE} if self.is_aspo else values

    extended = dataclasses.make_dataclass(
        base.__name__, fields, bases=(base,), namespace={"__post_init__": __post_init__, "to_dict": to_dict}
    )
    # Pickles name a class by where it is found, and it takes the place of `base` there.
    extended.__module__, extended.__qualname__, extended.__doc__ = (
        base.__module__,
        base.__qualname__,
        base.__doc__,
    )
    return extended
