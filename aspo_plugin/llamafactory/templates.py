"""Templates for models of our recipes that LLaMA-Factory has none for: SmolVLM and InstructBLIP (Vicuna).

`patches` calls `register` right after `llamafactory.data.template` has been imported; it serves every stage.
It calls `register_composites` after `llamafactory.model.model_utils.visual`: that tells the host which parts
of these models are vision tower and projector, so that `freeze_vision_tower` and `lora_target: all` mean what
they mean elsewhere. A name that the host has by then is left alone, so each can go when the host has it.

Checked with LLaMA-Factory 0.9.4 and 0.9.5: `register_template`, `register_mm_plugin`, `BasePlugin` (public),
`COMPOSITE_MODELS` and `_register_composite_model` of model/model_utils/visual.py (private).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from inspect import signature
from typing import Any

SMOLVLM = "smolvlm"
INSTRUCTBLIP = "instructblip"
IMAGE = "<image>"  # LLaMA-Factory's placeholder in a message, and both models' own image token

# Model type -> projector, vision tower and language model, as parts of module names.
COMPOSITES = {
    "llava_onevision": ("multi_modal_projector", ["vision_tower"], ["language_model", "lm_head"]),
    "smolvlm": ("model.connector", ["vision_model"], ["text_model", "lm_head"]),
    "idefics3": ("model.connector", ["vision_model"], ["text_model", "lm_head"]),
    "instructblip": (
        "language_projection",
        ["vision_model", "qformer", "query_tokens"],
        ["language_model"],
    ),
}


def register() -> None:
    """Add the templates `smolvlm` (Idefics3 too) and `instructblip`, where the host does not have them."""
    from llamafactory.data.formatter import EmptyFormatter, StringFormatter
    from llamafactory.data.mm_plugin import PLUGINS, get_mm_plugin, register_mm_plugin
    from llamafactory.data.template import TEMPLATES, register_template

    plugins = _plugin_classes()
    if SMOLVLM not in TEMPLATES:
        if SMOLVLM not in PLUGINS:
            register_mm_plugin(SMOLVLM, plugins[SMOLVLM])
        register_template(
            name=SMOLVLM,
            format_prefix=EmptyFormatter(slots=[{"bos_token"}]),
            format_user=StringFormatter(slots=["User:{{content}}<end_of_utterance>\nAssistant:"]),
            format_assistant=StringFormatter(slots=[" {{content}}<end_of_utterance>\n"]),
            format_system=StringFormatter(slots=["System: {{content}}<end_of_utterance>\n"]),
            stop_words=["<end_of_utterance>"],
            mm_plugin=get_mm_plugin(SMOLVLM, image_token=IMAGE),
        )
    if INSTRUCTBLIP not in TEMPLATES:
        if INSTRUCTBLIP not in PLUGINS:
            register_mm_plugin(INSTRUCTBLIP, plugins[INSTRUCTBLIP])
        # The model was tuned on bare instructions, without roles. The new line marks where the answer starts.
        register_template(
            name=INSTRUCTBLIP,
            format_prefix=EmptyFormatter(slots=[{"bos_token"}]),
            format_user=StringFormatter(slots=["{{content}}" + END_OF_INSTRUCTION]),
            mm_plugin=get_mm_plugin(INSTRUCTBLIP, image_token=IMAGE),
        )


def register_composites() -> None:
    """Tell the host the parts of the composite models it does not know."""
    from llamafactory.model.model_utils.visual import COMPOSITE_MODELS, _register_composite_model

    # 0.9.4 takes the name of one projector, 0.9.5 a list of names.
    one = "projector_key" in signature(_register_composite_model).parameters
    for model_type, (projector, vision, language) in COMPOSITES.items():
        if model_type not in COMPOSITE_MODELS:
            _register_composite_model(model_type, projector if one else [projector], vision, language)


END_OF_INSTRUCTION = "\n"


def instruction_of(text: str) -> str:
    """The text the Q-Former reads: the instruction's first line, never a part of the answer.

    A batch tells its token ids but not where the answer starts, and the Q-Former must see the same for the
    chosen and the rejected answer.
    """
    return text.partition(END_OF_INSTRUCTION)[0].strip()


def _plugin_classes() -> dict[str, type]:
    """The two plugins; classes are made here because their base is the host's."""
    from llamafactory.data.mm_plugin import BasePlugin

    class SmolVLMPlugin(BasePlugin):
        """Idefics3 and SmolVLM: an image becomes the tiles that their processor writes."""

        def process_messages(
            self,
            messages: list[dict[str, str]],
            images: Sequence[Any],
            videos: Sequence[Any],
            audios: Sequence[Any],
            processor: Any,
        ) -> list[dict[str, str]]:
            self._validate_input(processor, images, videos, audios)
            self._validate_messages(messages, images, videos, audios)
            expanded = iter(
                self._expanded(images, processor) if self.expand_mm_tokens else [IMAGE] * len(images)
            )
            messages = deepcopy(messages)
            for message in messages:
                first, *rest = message["content"].split(IMAGE)
                message["content"] = first + "".join(next(expanded) + text for text in rest)
            return messages

        def _expanded(self, images: Sequence[Any], processor: Any) -> list[str]:
            """What stands for each image in the text."""
            regular = self._regularize_images(images, **_pixel_limits(processor))["images"]
            texts = []
            for image in regular:
                ids = processor(text=[IMAGE], images=[[image]], add_special_tokens=False)["input_ids"][0]
                texts.append(processor.tokenizer.decode(ids, skip_special_tokens=False))
            return texts

        def get_mm_inputs(
            self,
            images: Sequence[Any],
            videos: Sequence[Any],
            audios: Sequence[Any],
            imglens: list[int],
            vidlens: list[int],
            audlens: list[int],
            batch_ids: list[list[int]],
            processor: Any,
        ) -> dict[str, Any]:
            self._validate_input(processor, images, videos, audios)
            # Rows without an image have no tiles; the model takes tiles in order, whichever row they are of.
            found: dict[str, Any] = self._get_mm_inputs(
                images, videos, audios, processor, [count for count in imglens if count]
            )
            return found

    class InstructBlipPlugin(BasePlugin):
        """InstructBLIP: query tokens before all text, and the instruction once more for the Q-Former."""

        def process_messages(
            self,
            messages: list[dict[str, str]],
            images: Sequence[Any],
            videos: Sequence[Any],
            audios: Sequence[Any],
            processor: Any,
        ) -> list[dict[str, str]]:
            self._validate_input(processor, images, videos, audios)
            self._validate_messages(messages, images, videos, audios)
            messages = deepcopy(messages)
            for message in messages:
                if IMAGE in message["content"]:
                    message["content"] = message["content"].replace(IMAGE, "").lstrip()
            return messages

        def process_token_ids(
            self,
            input_ids: list[int],
            labels: list[int] | None,
            images: Sequence[Any],
            videos: Sequence[Any],
            audios: Sequence[Any],
            tokenizer: Any,
            processor: Any,
        ) -> tuple[list[int], list[int] | None]:
            self._validate_input(processor, images, videos, audios)
            count = len(images) * processor.num_query_tokens if self.expand_mm_tokens else 0
            input_ids = [tokenizer.convert_tokens_to_ids(self.image_token)] * count + input_ids
            return input_ids, None if labels is None else [-100] * count + labels

        def get_mm_inputs(
            self,
            images: Sequence[Any],
            videos: Sequence[Any],
            audios: Sequence[Any],
            imglens: list[int],
            vidlens: list[int],
            audlens: list[int],
            batch_ids: list[list[int]],
            processor: Any,
        ) -> dict[str, Any]:
            self._validate_input(processor, images, videos, audios)
            mm_inputs = self._get_mm_inputs(images, videos, audios, processor)
            image_id = processor.tokenizer.convert_tokens_to_ids(self.image_token)
            questions = []
            for ids, count in zip(batch_ids, imglens, strict=True):
                text = processor.tokenizer.decode(
                    [token for token in ids if token != image_id], skip_special_tokens=True
                )
                questions += [instruction_of(text)] * count
            encoded = processor.qformer_tokenizer(
                questions, padding=True, truncation=True, max_length=QFORMER_LENGTH, return_tensors="pt"
            )
            return {
                **mm_inputs,
                "qformer_input_ids": encoded["input_ids"],
                "qformer_attention_mask": encoded["attention_mask"],
            }

    return {SMOLVLM: SmolVLMPlugin, INSTRUCTBLIP: InstructBlipPlugin}


QFORMER_LENGTH = 512  # positions of its BERT


def _pixel_limits(processor: Any) -> dict[str, int]:
    """The host's bounds on an image's pixels (`image_max_pixels`, `image_min_pixels`)."""
    return {
        "image_max_pixels": getattr(processor, "image_max_pixels", 768 * 768),
        "image_min_pixels": getattr(processor, "image_min_pixels", 32 * 32),
    }
