"""A small LLaVA and a small CLIP, of the real classes, with a tokenizer whose tokens are phrases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .scenes import BACKGROUND, CELL, COLOURS, GRID, SHAPES, SIZE, SIZES
from .sentences import NUMBERS, PLURALS, QUARTERS, SIDES

QUESTION = "Describe the picture."
IMAGE_TOKENS = GRID * GRID
WIDTH, LAYERS, HEADS = 64, 4, 4
_PHRASES = (
    "There is a",
    "I see a",
    "There are",
    *(f"At the {quarter} is a" for quarter in QUARTERS),
    *(f"{side} the" for side in SIDES.values()),
)
_WORDS = (
    *("The", *SIZES, *COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS.values()),
    *("USER:", "Describe", "the", "picture", "ASSISTANT:"),
)


def tokenizer(*, clip: bool = False) -> Any:
    """Phrases and words with the space before them, as SentencePiece writes them.

    A token a phrase keeps answers short (6 tokens a sentence), so that training takes seconds.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["▁" + phrase.replace(" ", "▁") for phrase in _PHRASES] + ["▁" + word for word in _WORDS]
    pieces += [".", "▁"]
    special = ["<pad>", "</s>", "<unk>", *(["<s>"] if clip else ["<image>"])]
    vocabulary = {piece: number for number, piece in enumerate([*special, *pieces])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    phrases = "|".join("▁" + phrase.replace(" ", "▁") + "(?=▁|$)" for phrase in _PHRASES)
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(rf"{phrases}|▁?[^▁.]+|▁|\."), "isolated"),
        ]
    )
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    options: dict[str, Any] = {}
    if clip:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
        )
        options["bos_token"] = "<s>"
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right" if clip else "left",
        model_max_length=32 if clip else 256,
        chat_template=None if clip else _CHAT,
        **options,
    )


# As LLaMA-Factory writes LLaVA-1.5's, with an end of turn: no new line after the picture.
_CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def _image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        do_resize=False,
        do_center_crop=False,
        size={"height": SIZE, "width": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[BACKGROUND] * 3,
        image_std=[1 / 3] * 3,
    )


def _vision(layers: int = 2) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "image_size": SIZE,
        "patch_size": CELL,
        "projection_dim": WIDTH,
    }


def llava(seed: int) -> tuple[Any, Any]:
    """A `LlavaForConditionalGeneration` with random weights, and its processor; a patch is a cell."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision()),
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=256,
            initializer_range=0.08,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
    )
    torch.manual_seed(seed)
    processor = LlavaProcessor(
        _image_processor(),
        words,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def clip(seed: int) -> tuple[Any, Any]:
    """A `CLIPModel` with random weights, and its processor."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    words = tokenizer(clip=True)
    encoder = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH}
    config = CLIPConfig(
        text_config={
            **encoder,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "vocab_size": len(words),
            "max_position_embeddings": 32,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config=_vision(),
        projection_dim=WIDTH,
    )
    torch.manual_seed(seed)
    return CLIPModel(config), CLIPProcessor(_image_processor(), words)


def save(folder: Path, model: Any, processor: Any, half: bool = False) -> Path:
    """Write both as `from_pretrained` reads them, in every version of transformers.

    Versions differ in the names that they write for a LLaVA, and for one that was made and not loaded; all
    read those of LLaVA-1.5 at the Hub. `half`: 16 bits in the file; it still loads as 32, as its config says.
    """
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "model.safetensors"
    llava = model.config.model_type == "llava"
    tensors = {hub_name(name) if llava else name: value for name, value in load_file(file).items()}
    save_file({n: v.half() if half else v for n, v in tensors.items()}, file, metadata={"format": "pt"})
    return folder


def hub_name(name: str) -> str:
    """The name that LLaVA-1.5's files at the Hub have for a weight of a LLaVA."""
    if name.endswith("lm_head.weight"):
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    for part, inner in (("vision_tower.", "vision_model."), ("language_model.", "model.")):
        if name.startswith(part):
            rest = name.removeprefix(part)
            while rest.startswith(inner):
                rest = rest.removeprefix(inner)
            return part + inner + rest
    return name


def whole(loaded: tuple[Any, dict[str, Any]], folder: Path) -> Any:
    """The model of `from_pretrained(..., output_loading_info=True)`, whose every weight came from `folder`.

    Raises:
        ValueError: Weights were missing and drawn at random: the model knows less than it was taught.
    """
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of its model, {missing[0]} among them")
    return model
