"""The settings of ASPO: names, defaults, help texts and bounds, defined once for every host.

LLaMA-Factory shows each field as `aspo_<name>`, Axolotl as `<name>` inside its `aspo:` block, TRL as
`aspo_<name>` of `AspoConfig`. No host and no torch is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

NORMALIZATIONS = ("weight", "reward", "none")
SHARED_PREFIX = ("auto", "true", "false")
WEIGHTINGS = ("paper", "centred", "centred_bounded", "given")
WEIGHT_SCALES = (1.0, 2.0)


@dataclass(frozen=True)
class AspoSettings:
    """What a user may set. `validate` raises `ValueError` with one message per mistake.

    The field metadata holds `help`; `choices` where the values are a closed set of words, `numbers` where
    of numbers, `bounds` where they have a least and a largest; and `speed` where the value changes how fast a
    step is, or what is kept of it, and not what it learns.
    """

    alpha: float = field(
        default=0.5,
        metadata={
            "help": "Weight of image-text similarity against perplexity in a sentence's weight: "
            "1 uses similarity only, 0 perplexity only. In [0, 1].",
            "bounds": (0, 1),
        },
    )
    normalization: str = field(
        default="weight",
        metadata={
            "help": "What keeps a response's reward from growing with its weights: 'weight' (total token "
            "weight unchanged), 'reward' (the paper's symbols read literally, detached), or 'none'.",
            "choices": NORMALIZATIONS,
        },
    )
    weighting: str = field(
        default="paper",
        metadata={
            "help": "What a sentence is multiplied by: 'paper' (1 + weight, normalised), 'centred' (1 + "
            "weight_scale x (weight - mean weight), which can be negative), 'centred_bounded' (never "
            "negative) or 'given' (the dataset's own numbers in place of similarities, as they are). All "
            "but the first are beyond the paper.",
            "choices": WEIGHTINGS,
        },
    )
    weight_scale: float | None = field(
        default=None,
        metadata={
            "help": "Strength of a centred weighting: 1, or 2, which it has where this is not set.",
            "numbers": WEIGHT_SCALES,
        },
    )
    weight_rejected: bool = field(
        default=False,
        metadata={
            "help": "Weight the rejected response's sentences too, those most that fit the image least. "
            "Beyond the paper; needs a dataset scored by `aspo-data score --rejected`."
        },
    )
    similarity_model: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or path of a CLIP-like model that scores the sentences before training, for "
            "datasets without similarities. Leave empty for datasets scored by `aspo-data score`."
        },
    )
    shared_prefix: str = field(
        default="auto",
        metadata={
            "help": "Pass image and prompt through the model once per pair: 'auto' (where it is proven "
            "equal), 'true' (required: an error elsewhere) or 'false'.",
            "choices": SHARED_PREFIX,
            "speed": True,
        },
    )
    reference_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps the reference model's per-token log-probs over epochs and runs. "
            "With it the reference model is not kept in memory.",
            "speed": True,
        },
    )
    log_samples: int = field(
        default=0,
        metadata={
            "help": "Pairs per logging step whose sentences are written, with similarity, perplexity, weight "
            "and log-ratio, to aspo_samples.jsonl in the output folder and to the trackers. 0: none.",
            "bounds": (0, None),
            "speed": True,
        },
    )

    def validate(self, name: str = "aspo_{}") -> None:
        """Raise `ValueError` for a value out of bounds; `name` formats a field as its user wrote it."""
        alpha = self.alpha
        if not _is_number(alpha) or not 0.0 <= alpha <= 1.0:
            raise ValueError(
                f"{name.format('alpha')} is {alpha!r}, but it mixes similarity (1) with perplexity (0): "
                "set a number from 0 to 1, for example 0.5."
            )
        for item in fields(self):
            choices = item.metadata.get("choices")
            value = getattr(self, item.name)
            if choices and value not in choices:
                raise ValueError(
                    f"{name.format(item.name)} is {value!r}: choose one of {', '.join(choices)}."
                )
            text = item.name in ("similarity_model", "reference_cache")
            if text and value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name.format(item.name)} is {value!r}: set a text, or leave the key out.")
        samples = self.log_samples
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
            raise ValueError(
                f"{name.format('log_samples')} is {samples!r}, but a logging step keeps that many pairs: "
                "set a whole number, for example 4, or 0 for none."
            )
        self._check_weighting(name)

    def _check_weighting(self, name: str) -> None:
        weighting, scale, rejected = (
            name.format(key) for key in ("weighting", "weight_scale", "weight_rejected")
        )
        if self.weight_scale is not None:
            if not _is_number(self.weight_scale) or self.weight_scale not in WEIGHT_SCALES:
                raise ValueError(f"{scale} is {self.weight_scale!r}: choose 1 or 2, or leave the key out.")
            if self.weighting in ("paper", "given"):
                raise ValueError(
                    f"{scale} is {self.weight_scale}, which {weighting} {self.weighting} does not read: "
                    f"set {weighting} to centred or centred_bounded, or leave {scale} out."
                )
        if self.weighting == "given":
            self._check_given(name)
        elif self.weighting != "paper" and self.normalization != "weight":
            raise ValueError(
                f"{name.format('normalization')} is {self.normalization!r}, which {weighting} "
                f"{self.weighting} does not read: it keeps the total token weight by itself. "
                f"Leave {name.format('normalization')} out, or set {weighting} to paper."
            )
        if not isinstance(self.weight_rejected, bool):
            raise ValueError(f"{rejected} is {self.weight_rejected!r}: choose true or false.")
        if self.weight_rejected and self.alpha == 0:
            raise ValueError(
                f"{rejected} weights rejected sentences by their similarity, and {name.format('alpha')} is "
                f"0, which ignores similarities: set {name.format('alpha')} above 0, or {rejected} to false."
            )

    def _check_given(self, name: str) -> None:
        """Every setting that given weights leave no place for."""
        alpha, scorer, way = (name.format(key) for key in ("alpha", "similarity_model", "normalization"))
        given = f"{name.format('weighting')} given takes the dataset's own numbers"
        if self.alpha != 1:
            raise ValueError(
                f"{alpha} is {self.alpha:g}, but {given} and reads no perplexity: set {alpha} to 1."
            )
        if self.similarity_model is not None:
            raise ValueError(
                f"{scorer} is {self.similarity_model}, but {given}, and a CLIP's cosines are no weights: "
                f"remove {scorer}, or choose another {name.format('weighting')}."
            )
        if self.normalization == "reward":
            raise ValueError(
                f"{way} is 'reward', but {given}: choose weight (total token weight unchanged) or none "
                "(each number as it is)."
            )

    def told(self, name: str = "aspo_{}") -> dict[str, Any]:
        """The settings that decide what is learned, by names that `name` formats: for a model card."""
        kept = [item.name for item in fields(self) if not item.metadata.get("speed")]
        return {name.format(key): getattr(self, key) for key in kept}

    def in_words(self) -> str:
        """What decides the weights, for a line that a person reads."""
        told = f"alpha {self.alpha:g}, normalization {self.normalization}"
        return told if self.weighting == "paper" else f"{told}, weighting {self.weighting}"

    def loss_options(self) -> dict[str, Any]:
        """What `method.loss.aspo_loss` takes of the settings."""
        return {
            "alpha": self.alpha,
            "normalization": self.normalization,
            "weighting": self.weighting,
            "weight_scale": WEIGHT_SCALES[-1] if self.weight_scale is None else self.weight_scale,
        }


def json_schema(name: str = "{}") -> dict[str, dict[str, Any]]:
    """JSON Schema of each setting, by its name as `name` formats it: what `settings_from` takes of one."""
    kinds = {
        "float": "number",
        "str": "string",
        "bool": "boolean",
        "int": "integer",
    }
    found = {}
    for item in fields(AspoSettings):
        kind, optional = item.type.removesuffix(" | None"), item.type.endswith(" | None")
        about = item.metadata
        schema: dict[str, Any] = {"description": about["help"], "default": item.default}
        values = about.get("choices") or about.get("numbers")
        if values:
            both = (True, False) if item.name == "shared_prefix" else ()  # as YAML reads true and false
            schema["enum"] = [*values, *both, *([None] if optional else [])]
        else:
            schema["type"] = [kinds[kind], "null"] if optional else kinds[kind]
        if kind == "str" and not values:
            schema["minLength"] = 1
        low, high = about.get("bounds", (None, None))
        schema |= {key: limit for key, limit in (("minimum", low), ("maximum", high)) if limit is not None}
        found[name.format(item.name)] = schema
    return found


def canonical(name: str, value: Any) -> Any:
    """A host's spelling of a setting's value: YAML reads `true` as a boolean and `1` as an integer."""
    if name == "shared_prefix" and isinstance(value, bool):
        return "true" if value else "false"
    if name in ("alpha", "weight_scale") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def settings_from(values: dict[str, Any], name: str = "aspo_{}") -> AspoSettings:
    """Validated settings from plain field names; unknown names raise `ValueError` listing the valid ones."""
    known = [item.name for item in fields(AspoSettings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"unknown {', '.join(name.format(key) for key in unknown)}: "
            f"the keys are {', '.join(name.format(key) for key in known)}."
        )
    settings = AspoSettings(**{key: canonical(key, value) for key, value in values.items()})
    settings.validate(name)
    return settings


def check_beta(beta: Any, name: str) -> None:
    """Raise `ValueError` for a `beta` (a host's option, there called `name`) that teaches nothing."""
    if not _is_number(beta) or not beta > 0:
        raise ValueError(
            f"{name} is {beta!r}, but it scales the margin: set a number above 0, for example 0.1."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
