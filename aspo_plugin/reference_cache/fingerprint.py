"""What reference log-probs depend on besides tokens and media: weights, adapter, processor settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

WHOLE_BELOW = 2**28
BLOCKS, BLOCK = 64, 2**18
PER_TENSOR = 256
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


def weights_identity(
    path: str | Path | None, revision: str | None = None, cache_dir: str | None = None
) -> str:
    """Of the weights in a local folder or a cached model of the Hub; "none" without one.

    Files above 256 MiB count by their size and 64 blocks of 256 KiB spread over them, smaller ones whole:
    training changes weights all over a file. Raises `FileNotFoundError` where there are no weights.
    """
    if path is None:
        return "none"
    folder = Path(path)
    if not folder.is_dir():
        folder = _cached(str(path), revision, cache_dir)
    files = sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})
    if not files:
        raise FileNotFoundError(f"no weights found in {folder}, so a reference cache cannot be tied to them")
    digest = hashlib.blake2b(digest_size=16)
    for file in [folder / "config.json", folder / "adapter_config.json", *files]:
        if file.exists():
            digest.update(file.name.encode() + _sample(file))
    return digest.hexdigest()


def loaded_identity(model: Any) -> str:
    """Of the weights that a model holds in memory, which need not be those of the folder that its config
    names: an adapter may have been merged into them.

    About 256 numbers of each tensor count. What does not: an adapter on the model, quantised weights, and
    parts that this process does not hold (ZeRO-3, FSDP). One answer on all ranks: that of the first.
    """
    from accelerate.utils import broadcast_object_list

    adapters = set(getattr(model, "peft_config", None) or ())
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        weights = parameter.data
        plain = type(weights) is torch.Tensor and weights.is_floating_point() and not weights.is_meta
        if not plain or not weights.numel() or adapters & set(name.split(".")):
            continue
        sample = weights.flatten()[:: max(weights.numel() // PER_TENSOR, 1)]
        digest.update(f"{list(weights.shape)} ".encode() + sample.float().cpu().numpy().tobytes())
    return str(broadcast_object_list([digest.hexdigest()])[0])


def settings_identity(settings: Any) -> str:
    """Of a processor's settings, or of anything that JSON can write."""
    if hasattr(settings, "to_dict"):
        settings = settings.to_dict()
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def media_settings(processor: Any) -> list[Any]:
    """Of all parts of a processor that make inputs of what is no text; None for a part it lacks."""
    names = ("image_processor", "video_processor", "feature_extractor", "audio_processor")
    parts: list[Any] = [getattr(processor, name, None) for name in names]
    return [part.to_dict() if hasattr(part, "to_dict") else part for part in parts]


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    with file.open("rb") as stream:
        if size <= WHOLE_BELOW:
            while data := stream.read(2**22):
                digest.update(data)
        else:
            for block in range(BLOCKS):
                stream.seek((size - BLOCK) * block // (BLOCKS - 1))
                digest.update(stream.read(BLOCK))
    return digest.digest()


def _cached(name: str, revision: str | None, cache_dir: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, local_files_only=True))
