"""Speed of the scorer beside its two floors: the bare model and bare image decoding.

    python benchmarks/score.py                          the default scorer's shape (minutes on a CPU)
    python benchmarks/score.py --tower small            a model so small that decoding is the floor
    python benchmarks/score.py --device cuda --images 4096 --batch-size 64

Each row is a 640 x 480 JPEG with six sentences of its own, as in RLAIF-V. Three loops take turns:

    model    both encoders over batches of ready tensors, nothing else
    decode   JPEG to RGB in as many threads as the scorer uses, nothing else
    scorer   `SentenceScorer.score` on the same rows, from bytes to similarities

Printed is the time of the slower floor over the scorer's time (1.00: all else is hidden behind it; the aim is
0.85), from the fastest of the rounds. On a CPU the resizing of images takes the cores of the model, so only
the default shape, whose model takes nearly all the time, says something there. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SENTENCES = 6
WORDS = "a the red blue small large dog cat table sits stands on near white house with two people and".split()
TOWERS = {
    # openai/clip-vit-large-patch14-336
    "large": (
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        {"image_size": 336, "patch_size": 14},
    ),
    "small": (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        {"image_size": 224, "patch_size": 32},
    ),
}


def build(tower: str, folder: str) -> str:
    """A CLIP of the tower's shape with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.support.backbones.text import family_tokenizer, vocabulary

    vision, text, image = TOWERS[tower]
    tokenizer = family_tokenizer(
        "byte_level", "", bos="<|startoftext|>", eos="<|endoftext|>", pad="<pad>",
        prepend_bos=True, append_eos=True,
    )  # fmt: skip
    tokenizer.model_max_length = 77
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPConfig(
        text_config={
            **text,
            **ids,
            "vocab_size": vocabulary(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**vision, **image},
        projection_dim=768 if tower == "large" else 32,
    )
    with torch.device("meta"):
        model = CLIPModel(config)
    model = model.to_empty(device="cpu").to(torch.float16)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.02).half()
    for buffer in model.buffers():
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))
    model.save_pretrained(folder)
    size = image["image_size"]
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def rows(count: int) -> list[tuple[list[bytes], list[str]]]:
    """JPEGs with the detail and weight of a photo (about 100 kB), and sentences of 20 to 60 tokens."""
    import numpy as np
    from PIL import Image

    generator, made = random.Random(0), []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=93)
        sentences = [
            " ".join(generator.choices(WORDS, k=generator.randint(4, 9))) + f" {seed} {number}."
            for number in range(SENTENCES)
        ]
        made.append(([stream.getvalue()], sentences))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", choices=TOWERS, default="large")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(build(options.tower, folder), options)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name in ("model", "decode", "scorer"):
        seconds = result[name]
        print(
            f"{name:8} {seconds:8.2f} s  {options.images / seconds:8.1f} images/s  {result['rounds'][name]}"
        )
    print(f"slower floor / scorer: {result['ratio']:.2f}   ({result['device']}, {result['dtype']})")


def measure(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each loop, the fastest round, and the ratio."""
    import torch

    from dataset_tools.scoring.scorer import SentenceScorer, open_image

    scorer = SentenceScorer(
        folder,
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    encoder, data = scorer.encoder, rows(options.images)
    wait = torch.cuda.synchronize if encoder.device.type == "cuda" else lambda: None
    tokens = [encoder.tokenize(sentences) for _, sentences in data]
    size = options.batch_size

    # One batch of pixels, given again and again: all of them would not fit in memory.
    ready = encoder.prepare_images([open_image(image) for [image], _ in data[:size]])
    pictures = [image for [image], _ in data]

    def model(count: int) -> None:
        for start in range(0, count, size):
            chunk = range(start, min(start + size, count))
            encoder.encode_texts([item for row in chunk for item in tokens[row]])
            encoder.encode_images({name: value[: len(chunk)] for name, value in ready.items()})
        wait()

    def decode(count: int) -> None:
        with ThreadPoolExecutor(scorer.threads) as pool:
            for _ in pool.map(open_image, pictures[:count], chunksize=1):
                pass

    def score(count: int) -> None:
        for _ in scorer.score(data[:count]):
            pass

    loops = {"model": model, "decode": decode, "scorer": score}
    for loop in loops.values():  # kernels, thread pools and allocators warm up
        loop(min(size, len(data)))
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            began = time.perf_counter()
            loop(len(data))
            times[name].append(time.perf_counter() - began)
    best = {name: min(values) for name, values in times.items()}
    device = torch.cuda.get_device_name(encoder.device) if encoder.device.type == "cuda" else "CPU"
    return {
        **best,
        "ratio": max(best["model"], best["decode"]) / best["scorer"],
        "rounds": {name: [round(value, 3) for value in values] for name, values in times.items()},
        "images": options.images,
        "threads": scorer.threads,
        "device": device,
        "dtype": str(encoder.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    main()
