"""A dual encoder of transformers (CLIP, SigLIP, ...) behind two calls: texts and images to unit vectors.

Everything that differs between model families or between transformers 4.49 and 5.x is here.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import DataError, UsageError
from dataset_tools.nearest import nearly_here, not_here
from dataset_tools.own_code import refused_code

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

DEFAULT_MODEL = "openai/clip-vit-large-patch14-336"
DTYPES = ("auto", "float32", "float16", "bfloat16")

# SigLIP was trained with lower-cased text, padded on the right to the full length without a mask: the last
# position, most often padding, is the text's vector. Not every tokenizer file says so.
_FULL_LENGTH = ("siglip", "siglip2")
# Text lengths of the training, where the model has more positions than it was trained on.
_TRAINED_LENGTH = {"altclip": 77, "chinese_clip": 52}
PICKLED = "openai/clip-vit-"
"""OpenAI's own models, the paper's scorer among them, are partly published without safetensors."""
_CONTENT_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Identity:
    """Which model: `revision` is the commit of a Hub model, `fingerprint` the content of a local folder."""

    model: str
    revision: str | None = None
    fingerprint: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The parts that are known. A local folder is named without its path, which is nobody's business."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def identify(model: str, revision: str | None = None) -> Identity:
    """Check that `model` (Hub id or folder) is a dual encoder, without reading its weights into memory.

    Raises `UsageError` for another kind of model, a missing folder or a wrong revision; `DataError` where the
    configuration cannot be fetched.
    """
    from transformers import MODEL_MAPPING, AutoConfig

    folder = Path(model).expanduser()
    local = folder.is_dir()
    if not local and (problem := not_here(model)):
        raise UsageError(f"the scorer {problem}")
    if local and revision:
        raise UsageError(f"revision {revision} goes with a Hub id, but {model} is a folder: leave it out.")
    try:
        config = AutoConfig.from_pretrained(
            str(folder) if local else model, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # a damaged file makes loaders raise what they like
        raise _not_loaded(model, error) from None
    kind = type(config)
    architecture = MODEL_MAPPING[kind] if kind in MODEL_MAPPING else None
    if not hasattr(architecture, "get_image_features") or not hasattr(architecture, "get_text_features"):
        raise UsageError(
            f"the scorer {model} is a {config.model_type} model, but a dual encoder of images and texts is "
            f"needed: CLIP, SigLIP, SigLIP 2, Chinese-CLIP or AltCLIP, for example {DEFAULT_MODEL}."
        )
    return identity_of_folder(model) or Identity(
        model, revision=getattr(config, "_commit_hash", None) or revision
    )


def identity_of_folder(model: str) -> Identity | None:
    """A folder with a model by its name and content; None where `model` is none."""
    folder = Path(model).expanduser()
    return Identity(folder.resolve().name, fingerprint=_fingerprint(folder)) if folder.is_dir() else None


def _not_loaded(model: str, error: Exception) -> DataError:
    if refusal := refused_code(model, error):
        return DataError(f"the scorer {refusal}")
    text = str(error).strip() or type(error).__name__
    return DataError(f"the scorer {model} cannot be loaded: {text}{nearly_here(model)}")


def _fingerprint(folder: Path) -> str:
    """SHA-256 over a model folder's configuration, tokenizer and weights, shortened to 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _CONTENT_FILES for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]


class DualEncoder:
    """Texts and images to float32 unit vectors in one space.

    `device` None takes this process's GPU where there is one. `dtype` "auto" is float16 on a GPU, where it is
    three bits more precise than bfloat16, and float32 on a CPU. Weights are read as safetensors alone: others
    are a pickle, which is a program; torch's restricted reader of these is used for OpenAI's CLIP, and for
    others with `pickled_weights`. Raises `UsageError` for no dual encoder, `DataError` where it cannot be
    loaded.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = "auto",
        pickled_weights: bool = False,
    ):
        import torch
        from transformers import AutoModel, AutoProcessor

        self.identity = identify(model, revision)
        self.device = torch.device(device or _default_device())
        self.dtype = _dtype(dtype, self.device)
        source = str(Path(model).expanduser()) if self.identity.fingerprint else model
        # The commit, not the branch: nothing can move between the configuration and the weights.
        revision = self.identity.revision
        published = not self.identity.fingerprint and model.startswith(PICKLED)
        pickled_weights = pickled_weights or published
        try:
            # No code of the model's is run: neither its modules nor what a pickle of weights may hold.
            encoder = AutoModel.from_pretrained(
                source,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=None if pickled_weights else True,
                weights_only=True,
            )
            processor = AutoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
        except Exception as error:
            if not pickled_weights and isinstance(error, OSError) and "safetensors" in str(error):
                raise DataError(
                    f"the scorer {model} has no weights as safetensors, and others are a pickle, which may "
                    "hold a program. Take another model, save this one again (save_pretrained of "
                    "transformers), or where you trust it: aspo-data score --pickled-weights."
                ) from None
            raise _not_loaded(model, error) from None
        self._model = encoder.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        self._tokenizer, self._image_processor = processor.tokenizer, processor.image_processor
        self._family = encoder.config.model_type
        self._image_arguments = set(inspect.signature(encoder.get_image_features).parameters)
        self._text_arguments = set(inspect.signature(encoder.get_text_features).parameters)
        if self._family in _FULL_LENGTH:
            self._text_arguments.discard("attention_mask")
        self.text_limit = _text_limit(encoder.config, self._tokenizer)

    def tokenize(self, texts: Sequence[str]) -> list[dict[str, list[int]]]:
        """Token ids (and masks) of each text with special tokens, not cut at `text_limit`."""
        if self._family in _FULL_LENGTH:
            texts = [text.lower() for text in texts]
        encoded = self._tokenizer(list(texts), padding=False, truncation=False, verbose=False)
        names = [name for name in encoded if name in self._text_arguments]
        return [{name: encoded[name][row] for name in names} for row in range(len(texts))]

    def encode_texts(self, tokens: Sequence[Mapping[str, list[int]]]) -> torch.Tensor:
        """Unit vectors [n, d], float32 on the device, of texts as `tokenize` returns them."""
        import torch

        length = max(len(item["input_ids"]) for item in tokens)
        if self._family in _FULL_LENGTH:
            length = self.text_limit
        padding = {"input_ids": self._tokenizer.pad_token_id or 0}
        batch = {
            name: torch.tensor(
                [item[name] + [padding.get(name, 0)] * (length - len(item[name])) for item in tokens]
            )
            for name in tokens[0]
        }
        with torch.inference_mode():
            return _unit(self._model.get_text_features(**self._moved(batch)))

    def prepare_images(self, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        """What the model takes for RGB images, on the CPU. Safe to call from several threads."""
        batch = self._image_processor(images=[_scalable(image) for image in images], return_tensors="pt")
        return {name: value for name, value in batch.items() if name in self._image_arguments}

    def encode_images(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Unit vectors [n, d], float32 on the device, of what `prepare_images` returned."""
        import torch

        with torch.inference_mode():
            return _unit(self._model.get_image_features(**self._moved(batch)))

    def _moved(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = {}
        for name, value in batch.items():
            if self.device.type == "cuda":
                value = value.pin_memory()
            value = value.to(self.device, non_blocking=True)
            moved[name] = value.to(self.dtype) if value.is_floating_point() else value
        return moved


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype in (None, "auto"):
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}: choose one of {', '.join(DTYPES)}.")
    return getattr(torch, str(dtype))


def _text_limit(config: Any, tokenizer: Any) -> int:
    """The most tokens a text may have, special tokens included."""
    text_config = getattr(config, "text_config", config)
    positions = getattr(text_config, "max_position_embeddings", None) or 77
    if "roberta" in text_config.model_type or config.model_type == "altclip":
        # RoBERTa's positions start after the padding index.
        positions -= (text_config.pad_token_id or 0) + 1
    trained = _TRAINED_LENGTH.get(config.model_type, positions)
    return min(int(min(tokenizer.model_max_length, 1 << 30)), positions, trained)


def _unit(output: Any) -> torch.Tensor:
    """Float32 unit vectors from a tensor (transformers 4) or an output object (5)."""
    import torch

    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _scalable(image: Image) -> Image:
    """`image`, changed only where its shape would break an image processor.

    A side of 1 or 3 pixels is taken for the colour channel, and a shortest-edge resize of a line of pixels
    needs gigabytes; the centre of such a line is all that a centre crop would keep.
    """
    width, height = image.size
    longest = 16 * min(width, height)
    if max(width, height) > longest:
        left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
        image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
    if min(image.size) < 4:
        image = image.resize((image.width * 4, image.height * 4), resample=0)
    return image
