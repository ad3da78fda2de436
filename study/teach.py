"""The starting point of one seed: a vision tower that knows its cells, a LLaVA that describes scenes and
errs, and a CLIP that tells true from false, imperfectly.

    python -m study.teach FOLDER --seed 0
    python -m study.teach FOLDER --seed 0 --habit 0.6 --of WORLD         a taught world, and a habit on top
    python -m study.teach study/taught --seed 200 --habit 0.6 --half     the one that comes with the project
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import models
from .answers import Answerer, features, pixels
from .scenes import COLOURS, GRID, SHAPES, SIZES, Scene, draw, scene
from .sentences import answer, describe, text, true_facts

# The world that comes with the project.
TAUGHT = Path(__file__).resolve().parent / "taught"
LENGTHS = (3, 4, 4, 5, 5, 5, 5, 6, 6, 7)


@dataclass(frozen=True)
class Lessons:
    """How long and on what is taught. `false_share`: of the sentences of the captions; `habit`: the share of
    captions with one fixed sentence, true or not, which makes a confident habit; `habit_steps`: how long a
    world that is taught already is taught a habit."""

    scenes: int = 6000
    tower_steps: int = 300
    caption_steps: int = 900
    caption_batch: int = 64
    caption_rate: float = 2.5e-3
    false_share: float = 0.12
    habit: float = 0.0
    habit_steps: int = 150
    clip_steps: int = 300


def drawn(number: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """Scenes and their pictures."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    scenes = [scene(rng) for _ in range(number)]
    return scenes, np.stack([draw(things, noise) for things in scenes])


def _schedule(optimizer: Any, steps: int, warm: int = 30) -> Any:
    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm) * (0.475 * (1 + math.cos(math.pi * step / steps)) + 0.05)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _labels(scenes: list[Scene]) -> Tensor:
    labels = torch.zeros(len(scenes), GRID * GRID, 6, dtype=torch.long)
    for row, things in enumerate(scenes):
        for thing in things:
            values = (
                1,
                SHAPES.index(thing.shape),
                list(COLOURS).index(thing.colour),
                SIZES.index(thing.size),
                thing.row,
                thing.column,
            )
            labels[row, thing.row * GRID + thing.column] = torch.tensor(values)
    return labels


def teach_tower(
    tower: nn.Module, values: Tensor, scenes: list[Scene], steps: int, layer: int, say: Any
) -> None:
    """In place of CLIP's pretraining: what each cell holds, and where it is."""
    labels, width = _labels(scenes), models.WIDTH
    heads = nn.ModuleList(nn.Linear(width, n) for n in (2, len(SHAPES), len(COLOURS), len(SIZES), GRID, GRID))
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], 2e-3)
    schedule = _schedule(optimizer, steps)
    tower.train()
    for step in range(1, steps + 1):
        rows = torch.randint(len(scenes), (128,))
        hidden = tower(values[rows], output_hidden_states=True).hidden_states[layer][:, 1:]
        target = labels[rows]
        full = target[..., 0] > 0
        loss = F.cross_entropy(heads[0](hidden).flatten(0, 1), target[..., 0].flatten())
        for kind, head in enumerate(heads[1:], 1):
            loss = loss + F.cross_entropy(head(hidden)[full], target[..., kind][full])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            with torch.no_grad():
                right = [
                    float((head(hidden)[full].argmax(-1) == target[..., k][full]).float().mean())
                    for k, head in enumerate(heads[1:], 1)
                ]
            say(
                f"tower {step}/{steps}  loss {loss.item():.3f}  shape, colour, size right {right[0]:.2f} "
                f"{right[1]:.2f} {right[2]:.2f}"
            )
    tower.eval()


def teach_captions(
    model: Any,
    words: Any,
    seen: Tensor,
    scenes: list[Scene],
    lessons: Lessons,
    steps: int,
    rate: float,
    seed: int,
    say: Any,
) -> None:
    """Supervised captions, some of them false: a model that hallucinates as it was taught, and by itself."""
    rng = random.Random(seed + 5)
    answerer = Answerer(model, words)
    trained = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = _schedule(optimizer, steps)
    model.train()
    for step in range(1, steps + 1):
        count = rng.choice(LENGTHS)
        rows = [rng.randrange(len(scenes)) for _ in range(lessons.caption_batch)]
        told = [describe(scenes[i], rng, count, lessons.false_share, lessons.habit) for i in rows]
        ids = answerer.pad([answerer.encode(answer(facts)) for facts in told])
        loss = -answerer.logps(seen[rows], ids).sum() / (ids != words.pad_token_id).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 300 == 0 or step == steps:
            model.eval()
            drawn_rows, _ = answerer.sample(seen[:200], 1.0, torch.Generator().manual_seed(step))
            false = false_share([answerer.text(row) for row in drawn_rows], scenes[:200])
            model.train()
            say(f"captions {step}/{steps}  loss {loss.item():.3f}  false {false:.3f}")
    model.eval()


def false_share(answers: list[str], scenes: list[Scene]) -> float:
    """The share of all sentences that are false of their scene."""
    from .sentences import parse

    true = [fact in true_facts(s) for a, s in zip(answers, scenes, strict=True) for fact in parse(a)]
    return 1 - sum(true) / max(len(true), 1)


def teach_clip(
    model: Any, processor: Any, values: Tensor, scenes: list[Scene], steps: int, seed: int, say: Any
) -> None:
    """Contrastive, where a sentence fits every scene of the batch that it is true of."""
    rng = random.Random(seed + 11)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = _schedule(optimizer, steps)
    true = [true_facts(things) for things in scenes]
    model.train()
    for step in range(1, steps + 1):
        rows = [rng.randrange(len(scenes)) for _ in range(96)]
        told = [describe(scenes[i], rng, 1, 0.0)[0] for i in rows]
        words = processor.tokenizer([text(fact) for fact in told], return_tensors="pt", padding=True)
        logits = model(pixel_values=values[rows], **words).logits_per_text
        fits = torch.tensor([[float(fact in true[i]) for i in rows] for fact in told])
        by_text = (logits.log_softmax(1) * fits).sum(1) / fits.sum(1)
        by_image = (logits.log_softmax(0) * fits).sum(0) / fits.sum(0).clamp(min=1)
        loss = -by_text.mean() - by_image.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            say(f"clip {step}/{steps}  loss {loss.item():.3f}")
    model.eval()


def teach(folder: Path, seed: int, lessons: Lessons, say: Any = print, half: bool = False) -> None:
    """Write `llava` and `clip` into `folder`, as `from_pretrained` reads them; `half`: in 16 bits."""
    began = time.process_time()
    scenes, pictures = drawn(lessons.scenes, 1000 + seed)
    model, processor = models.llava(seed)
    values = pixels(processor, pictures)
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    torch.manual_seed(seed)
    teach_tower(tower, values, scenes, lessons.tower_steps, layer, say)
    seen = features(model, values)
    teach_captions(
        model,
        processor.tokenizer,
        seen,
        scenes,
        lessons,
        lessons.caption_steps,
        lessons.caption_rate,
        seed,
        say,
    )
    models.save(folder / "llava", model, processor, half)
    scorer, scorer_processor = models.clip(seed + 7)
    scorer.vision_model.load_state_dict(tower.state_dict(), strict=False)
    teach_clip(scorer, scorer_processor, values, scenes, lessons.clip_steps, seed, say)
    models.save(folder / "clip", scorer, scorer_processor, half)
    record = {"seed": seed, **asdict(lessons), "seconds": round(time.process_time() - began)}
    (folder / "lessons.json").write_text(json.dumps(record, indent=1) + "\n")
    say(f"taught in {record['seconds']} s of processor time: {folder}")


def teach_habit(source: Path, folder: Path, seed: int, lessons: Lessons, say: Any = print) -> None:
    """Write the world of `source` into `folder`, taught a habit on top: a cheaper start than `teach`'s."""
    from .pairs import load

    began = time.process_time()
    world = load(source)
    scenes, pictures = drawn(lessons.scenes // 3, 2000 + seed)
    seen = features(world.model, pixels(world.processor, pictures))
    rate = lessons.caption_rate / 2
    teach_captions(world.model, world.tokenizer, seen, scenes, lessons, lessons.habit_steps, rate, seed, say)
    shutil.copytree(source / "clip", folder / "clip", dirs_exist_ok=True)
    models.save(folder / "llava", world.model, world.processor)
    record = {"seed": seed, **asdict(lessons), "seconds": round(time.process_time() - began)}
    (folder / "lessons.json").write_text(json.dumps(record, indent=1) + "\n")
    say(f"taught a habit in {record['seconds']} s of processor time: {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--habit", type=float, default=0.0)
    parser.add_argument("--caption-steps", type=int, default=Lessons.caption_steps)
    parser.add_argument("--of", type=Path, metavar="WORLD", help="teach this world a habit, and no more")
    parser.add_argument("--half", action="store_true", help="16 bits: half the size")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lessons = Lessons(habit=options.habit, caption_steps=options.caption_steps)

    def say(text: str) -> None:
        print(text, flush=True)

    if options.of is not None:
        teach_habit(options.of, options.folder, options.seed, lessons, say)
    else:
        teach(options.folder, options.seed, lessons, say, options.half)


if __name__ == "__main__":
    main()
