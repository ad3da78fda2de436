"""The demo's scorer: a CLIP that learns the drawn shapes in half a minute."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

from demo.pictures import SIZE, scene

WIDTH = 64


def train_small_clip(folder: Path, steps: int, report: Callable[[int, int, float], None]) -> Path:
    """Teach a small CLIP which sentences fit which pictures (contrastive, 48 drawn pairs a step).

    Args:
        folder: receives model and processor in the layout `from_pretrained` reads.
        steps: number of training steps.
        report: called with step, steps and loss now and then.
    """
    import torch
    from PIL import Image
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.support.backbones import build

    tiny = build("clip", folder)  # for its tokenizer
    tokenizer = CLIPProcessor.from_pretrained(tiny).tokenizer
    encoder = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = {**CLIPConfig.from_pretrained(tiny).text_config.to_dict(), **encoder}
    vision = {**encoder, "image_size": SIZE, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    size = {"height": SIZE, "width": SIZE}
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size), tokenizer)

    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = random.Random(1)
    model.train()
    for step in range(1, steps + 1):
        scenes = [scene(rng) for _ in range(48)]
        images = [Image.open(io.BytesIO(what.draw(rng))) for what in scenes]
        texts = [what.true_sentence(rng) for what in scenes]
        logits = model(
            **processor(text=texts, images=images, return_tensors="pt", padding=True)
        ).logits_per_text
        # Another picture may show the same thing: a sentence fits every picture that it is true of.
        fits = torch.tensor(
            [[float(any(f"{c} {s}" in text for c, s in what.things)) for what in scenes] for text in texts]
        )
        by_text, by_image = logits.log_softmax(1), logits.log_softmax(0)
        loss = -((by_text + by_image) * fits).sum() / fits.sum() / 2
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(1, steps // 8) == 0:
            report(step, steps, loss.item())
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
