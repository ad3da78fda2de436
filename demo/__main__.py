"""The main job, end to end: draw data, convert, score, train with `stage: aspo`, and say what happened."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from demo.models import train_small_clip
from demo.pictures import write_rlaif_v

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(".artifacts/demo")  # relative to ROOT, as the recipe writes it


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str) -> None:
    """Run one of the commands a user would type; stop the demo if it fails."""
    say(f"$ {' '.join(command)}")
    scripts = Path(sys.executable).parent
    environment = dict(os.environ, PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}")
    for name in ("DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        environment.setdefault(name, "1")
    subprocess.run([str(scripts / command[0]), *command[1:]], cwd=ROOT, env=environment, check=True)


def similarity_report(false: set[str]) -> None:
    import pyarrow.parquet as pq

    true_scores, false_scores, counts = [], [], []
    for file in sorted((OUT / "dataset").rglob("*.parquet")):
        columns = ["id", "chosen", "chosen_sentences", "chosen_similarity"]
        for row in pq.read_table(file, columns=columns).to_pylist():
            text, number = row["chosen"][0]["content"], row["id"].rsplit(":")[-1].rsplit("-")[-1]
            counts.append(len(row["chosen_sentences"]))
            for span, score in zip(row["chosen_sentences"], row["chosen_similarity"], strict=True):
                wrong = f"{number}:{text[span['start'] : span['end']]}" in false
                (false_scores if wrong else true_scores).append(score)
    say(f"  chosen answers  {len(counts)}, {sum(counts) / len(counts):.1f} sentences each")
    for name, scores in (("true", true_scores), ("false", false_scores)):
        mean = sum(scores) / len(scores)
        say(f"  {name + ' sentences':<15} {len(scores)}, mean similarity to their picture {mean:.3f}")


def training_report() -> None:
    history = json.loads((OUT / "adapter/trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    keys = {
        "loss": "loss",
        "margin": "rewards/margins",
        "weight mean": "aspo/weight_mean",
        "spread": "aspo/weight_spread",
        "worst's share": "aspo/lowest_similarity_weight_share",
        "similarity": "aspo/similarity_mean",
        "perplexity": "aspo/perplexity_mean",
        "factor": "aspo/factor_mean",
    }
    say("  step  " + "  ".join(f"{name:>11}" for name in keys))
    for entry in steps[:: max(1, len(steps) // 8)]:
        say(f"  {entry['step']:>4}  " + "  ".join(f"{entry[key]:>11.4f}" for key in keys.values()))
    say(f"  pictures: {', '.join(str(p) for p in sorted((OUT / 'adapter').glob('*.png')))}")
    say(f"  adapter:  {OUT / 'adapter' / 'adapter_model.safetensors'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--rows", type=int, default=160, help="preference pairs to draw")
    parser.add_argument("--clip-steps", type=int, default=200, help="training steps of the small CLIP")
    options = parser.parse_args()
    os.chdir(ROOT)
    shutil.rmtree(OUT, ignore_errors=True)
    began = time.monotonic()

    say(f"\n1/6  drawing {options.rows} preference pairs in RLAIF-V's parquet layout")
    false = write_rlaif_v(OUT / "raw", options.rows, seed=0)

    say("\n2/6  splitting the answers into sentences")
    run("aspo-data", "convert", str(OUT / "raw"), str(OUT / "dataset"), "--from", "rlaif-v")

    say("\n3/6  teaching a small CLIP the shapes (a real run uses openai/clip-vit-large-patch14-336)")
    train_small_clip(
        OUT / "clip", options.clip_steps, lambda n, of, loss: say(f"  step {n}/{of}  loss {loss:.3f}")
    )

    say("\n4/6  scoring each sentence against its picture")
    run("aspo-data", "score", str(OUT / "dataset"), "--model", str(OUT / "clip"))
    similarity_report(false)

    say("\n5/6  training a small LLaVA with stage: aspo")
    from tests.support.backbones import build

    build("llava", OUT / "llava")
    run("llamafactory-cli", "train", "demo/recipe.yaml")

    say("\n6/6  what happened")
    similarity_report(false)
    training_report()
    say(f"\ndone in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
