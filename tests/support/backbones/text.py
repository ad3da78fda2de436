"""Tokenizers with a family's special tokens, and the sizes that every tiny language model shares."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from tests.support.tokenizers import tokenizer as trained

# A language model that trains a step in a few milliseconds. head_dim 16, so rotary sections sum to 8.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
# The two layers of a text model of Qwen3.5's kind.
LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 16,
}

TRANSFORMERS_4 = transformers.__version__.startswith("4.")


def rope(**more: Any) -> dict[str, Any]:
    """Rotary positions as a config of this version of transformers names them."""
    if TRANSFORMERS_4:
        part = {name: more.pop(name) for name in ("partial_rotary_factor",) if name in more}
        return {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "default", **more}, **part}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **more}}


def family_tokenizer(
    kind: str,
    template: str,
    *,
    bos: str | None,
    eos: str,
    pad: str,
    special: tuple[str, ...] = (),
    named: dict[str, str] | None = None,
    prepend_bos: bool = False,
    append_eos: bool = False,
    older_class: str = "PreTrainedTokenizerFast",
) -> PreTrainedTokenizerFast:
    """A tokenizer of `kind` with `special` tokens; `named` ones become attributes (`image_token`, ...).

    `prepend_bos` adds the start token to every encoded text, as Llama's and Gemma's tokenizers do;
    `append_eos` the end token, as the dual encoders' do. Processors of transformers 4 take no tokenizer but
    that of the `older_class` which they name; those of transformers 5 take any.
    """
    base = trained(kind)
    raw = type(base.backend_tokenizer).from_str(base.backend_tokenizer.to_str())
    tokens = [token for token in (bos, eos, pad, *special, *(named or {}).values()) if token]
    raw.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(tokens)]
    )
    around = ([bos] if prepend_bos else [], [eos] if append_eos else [])
    if any(around):
        raw.post_processor = processors.TemplateProcessing(
            single=" ".join([*around[0], "$A", *around[1]]),
            special_tokens=[(token, raw.token_to_id(token)) for token in (*around[0], *around[1])],
        )
    options: dict[str, Any] = {"bos_token": bos} if bos else {}
    if named:
        options["extra_special_tokens"] = named
    kind_of = getattr(transformers, older_class) if TRANSFORMERS_4 else PreTrainedTokenizerFast
    return kind_of(
        tokenizer_object=raw,
        eos_token=eos,
        pad_token=pad,
        unk_token="<unk>",
        chat_template=template,
        padding_side="left",
        model_max_length=2048,
        **options,
    )


def vocabulary(tokenizer: Any) -> int:
    """Rows of the embedding: the tokenizer's length rounded up to a multiple of 64, as real models do."""
    return -(-len(tokenizer) // 64) * 64


def special_ids(tokenizer: Any) -> dict[str, int | None]:
    """The start, end and padding tokens as a language model's config names them."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
