"""The main job end to end, in a small world whose truth is known: own answers to pairs, `aspo-data`, training
with `stage: dpo` and `stage: aspo`, and how many false sentences each model says afterwards."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from demo.data import scored_sentences, with_random_similarities, write_rlaif_v

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(".artifacts/demo")  # relative to ROOT, as the recipe writes it
TAUGHT = ROOT / "study" / "taught"
DATASET, RANDOM = OUT / "dataset", OUT / "random"

# Name in the table -> what it changes in demo/recipe.yaml.
RUNS = {
    "DPO": ["stage=dpo", "aspo_alpha=null", "aspo_normalization=null"],
    "ASPO, alpha 1": ["aspo_alpha=1"],
    "ASPO, alpha 0.5": ["aspo_alpha=0.5"],
    "ASPO, alpha 0": ["aspo_alpha=0"],
    "random weights": ["aspo_alpha=1", f"dataset_dir={RANDOM}"],
}


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str, log: Path | None = None) -> None:
    """Run one of the commands a user would type, its output shown or in `log`; stop where it fails."""
    say(f"$ {' '.join(command)}")
    scripts = Path(sys.executable).parent
    environment = dict(os.environ, PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(ROOT))
    for name in ("DO_NOT_TRACK", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        environment.setdefault(name, "1")
    with open(log or os.devnull, "w") as file:
        output = file if log is not None else None
        done = subprocess.run(
            [str(scripts / command[0]), *command[1:]], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    if done.returncode:
        tail = log.read_text()[-3000:] if log is not None else ""
        raise SystemExit(f"{tail}\n{command[0]} failed with exit code {done.returncode}")


def folder_of(name: str) -> Path:
    return OUT / "runs" / name.lower().replace(", ", "-").replace(" ", "-")


def train_all() -> None:
    """Two runs at a time: each takes one core."""

    def one(item: tuple[str, list[str]]) -> str:
        name, changes = item
        folder = folder_of(name)
        folder.mkdir(parents=True, exist_ok=True)
        command = ["llamafactory-cli", "train", "demo/recipe.yaml", *changes, f"output_dir={folder}"]
        run(*command, log=folder / "log.txt")
        return name

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        waiting = {pool.submit(one, item): item[0] for item in RUNS.items()}
        while waiting:
            for future in wait(waiting, timeout=5, return_when=FIRST_COMPLETED).done:
                future.result()
                name = waiting.pop(future)
                say(f"  {len(RUNS) - len(waiting)}/{len(RUNS)}  {name} trained")
            going = [f"{name}: {step_of(name)}" for future, name in waiting.items() if future.running()]
            say(f"  {time.monotonic() - began:3.0f} s  {', '.join(going)}")


def step_of(name: str) -> str:
    """How far a run is, by the host's own log."""
    path = folder_of(name) / "trainer_log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    logged = [json.loads(line) for line in lines if line.endswith("}")]
    if not logged:
        return "starting"
    return f"step {logged[-1]['current_steps']} of {logged[-1]['total_steps']}"


def models(base: Any) -> Iterator[tuple[str, Any]]:
    """The base model, then each that was trained."""
    import torch
    from transformers import AutoModelForImageTextToText

    from study.models import whole

    yield "before training", base
    for name in RUNS:
        folder = folder_of(name)
        loaded = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        yield name, whole(loaded, folder).eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--pairs", type=int, default=512, help="preference pairs")
    parser.add_argument("--scenes", type=int, default=200, help="held-out scenes that the models describe")
    options = parser.parse_args()
    os.chdir(ROOT)
    shutil.rmtree(OUT, ignore_errors=True)
    began = time.monotonic()

    say("\n1/6  a small LLaVA and a small CLIP, taught beforehand (python -m study.teach writes them anew)")
    shutil.copytree(TAUGHT, OUT / "world")
    import torch

    from study.pairs import load, seva

    torch.set_num_threads(1)
    world = load(OUT / "world")

    say(f"\n2/6  {options.pairs} pairs: its answer to a scene against its answer to the noised scene")
    pairs = seva(world, options.pairs, seed=1)
    write_rlaif_v(OUT / "raw", pairs)
    for side, truth in pairs.truth.items():
        flat = [true for row in truth for true in row]
        say(f"  {side:<9} {len(flat)} sentences, {100 * (1 - sum(flat) / len(flat)):.0f}% of them false")

    say("\n3/6  splitting the answers into sentences, and scoring each against its picture")
    run("aspo-data", "convert", str(OUT / "raw"), str(DATASET), "--from", "rlaif-v")
    run("aspo-data", "score", str(DATASET), "--model", str(OUT / "world/clip"))
    run("aspo-data", "validate", str(DATASET))
    for name, scores in zip(("true", "false"), scored_sentences(DATASET, pairs), strict=True):
        say(f"  {name:<5} sentences: mean similarity {sum(scores) / len(scores):.3f}")
    with_random_similarities(DATASET, RANDOM, seed=1)

    say("\n4/6  training: DPO, ASPO at three alphas, and ASPO on random numbers for similarities")
    train_all()

    say("\n5/6  each model describes scenes that none has seen")
    rows, shown = measured(world, options.scenes)

    say("\n6/6  what happened")
    report(rows)
    from demo.page import write_page, write_picture

    write_page(OUT / "page.html", rows, shown, weighted(world, pairs))
    write_picture(OUT / "picture.png", rows, "false sentences, %")
    say(f"\npage:    {OUT / 'page.html'}\npicture: {OUT / 'picture.png'}")
    say(f"done in {time.monotonic() - began:.0f} s")


def measured(world: Any, number: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """The table's rows, and some held-out scenes with what each model says of them."""
    import torch

    from study.answers import Answerer, features, pixels
    from study.measure import told
    from study.teach import drawn

    scenes, pictures = drawn(number, 30_000_000)
    seen = features(world.model, pixels(world.processor, pictures))
    rows: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for name, model in models(world.model):
        answerer = Answerer(model, world.tokenizer)
        values: dict[str, Any] = {"name": name}
        for column, temperature in (("false sentences, %", 1.0), ("greedy, %", 0.0)):
            answers, entropy = answerer.sample(seen, temperature, torch.Generator().manual_seed(5))
            texts = [answerer.text(row) for row in answers]
            found = told(texts, scenes)
            values[column] = f"{100 * found['false']:.1f}"
            if temperature:
                said[name] = texts
                extra = {
                    "habit, %": f"{100 * found['habit']:.1f}",
                    "objects named, %": f"{100 * found['coverage']:.0f}",
                    "sentences": f"{found['sentences']:.1f}",
                    "entropy": f"{entropy:.2f}",
                }
        rows.append(values | extra)
        say(f"  {name}")
    chosen = [name for name in ("DPO", "ASPO, alpha 1", "ASPO, alpha 0.5") if name in said]
    examples = [
        (pictures[i], scenes[i], {name: said[name][i] for name in chosen}) for i in range(min(6, len(scenes)))
    ]
    return rows, examples


def weighted(world: Any, pairs: Any) -> list[Any]:
    """The first chosen answers that hold the habit falsely, and a true sentence, with the weights that alpha
    1, 0.5 and 0 give their sentences when training begins."""
    from study.sentences import HABIT, parse, true_facts
    from study.weights import chosen_weights

    def telling(i: int) -> bool:
        true, facts = true_facts(pairs.scenes[i]), parse(pairs.texts["chosen"][i])
        return len(facts) > 3 and HABIT in facts and HABIT not in true and any(fact in true for fact in facts)

    rows = [i for i in range(len(pairs)) if telling(i)][:6]
    found = chosen_weights(world, pairs, (1.0, 0.5, 0.0), rows)
    return [
        (
            pairs.pictures[i],
            pairs.scenes[i],
            pairs.texts["chosen"][i],
            {f"alpha {alpha:g}": weights[place] for alpha, weights in found.items()},
        )
        for place, i in enumerate(rows)
    ]


def report(rows: list[dict[str, Any]]) -> None:
    header = {name: "" if name == "name" else name for name in rows[0]}
    widths = {name: max(len(str(row[name])) for row in [header, *rows]) for name in header}
    for row in [header, *rows]:
        say("  " + "  ".join(f"{row[name]!s:<{width}}" for name, width in widths.items()))
    say("  habit: answers that say `There is a large red circle.` of a scene without one, as taught.")
    say("  One seed, one start: docs/study.md has more, and says what part is only sharper sampling.")


if __name__ == "__main__":
    main()
