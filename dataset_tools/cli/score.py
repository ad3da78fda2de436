"""`aspo-data score`: similarity of each sentence with its image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dataset_tools.cli.engine import AddressOption, Engine, EngineOption, check_engine, cluster_of
from dataset_tools.errors import UsageError

DEFAULT_MODEL = "openai/clip-vit-large-patch14-336"


def score(
    out: Annotated[Path, typer.Argument(help="Folder of a converted dataset.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="Hub id or folder of a CLIP, SigLIP, SigLIP 2, Chinese-CLIP or AltCLIP model.")
    ] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Score the rejected responses too (training does not need it).")
    ] = False,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images per model call.")] = 32,
    dtype: Annotated[
        str, typer.Option(help="auto (float16 on a GPU, else float32), float32, float16 or bfloat16.")
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1, cpu, ... Default: this process's GPU, else the CPU.")
    ] = None,
    pickled_weights: Annotated[
        bool,
        typer.Option(
            "--pickled-weights",
            help="Read weights that are no safetensors, of a model that you trust.",
        ),
    ] = False,
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score each sentence of a converted dataset against its image with a CLIP-like model.

    The similarities are written into OUT, shard by shard; a run that was stopped goes on when started again.
    On several GPUs: torchrun --nproc-per-node 4 -m dataset_tools score OUT, or --engine ray

    Example: aspo-data score rlaif-v --model openai/clip-vit-large-patch14-336
    """
    from dataset_tools.cli import output

    _need_torch()
    check_engine(engine, address)
    if engine is Engine.RAY and "RANK" in os.environ:
        raise UsageError("--engine ray has workers of its own: start the command once, without torchrun.")
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
        output.note(
            "accelerate started one process: it starts several only where it sees several GPUs, or with "
            "--multi_gpu. torchrun --nproc-per-node N -m dataset_tools score shares the work anywhere."
        )
    rank = int(os.environ.get("RANK", 0))
    if not rank:
        # torch and the model take a while; a command that says nothing looks stuck.
        output.note(f"scoring {out} by {model}: loading the model")
    from dataset_tools.scoring.folder import score_dataset

    with (
        cluster_of(engine, address) as cluster,
        output.Progress("score", silent=rank > 0) as progress,
    ):

        def begin(rows: int, done: int) -> None:
            progress.total, progress.done = rows, done
            if done:
                output.note(f"{done:,} of {rows:,} rows are already scored by this model.")

        scorer = score_dataset(
            out,
            model,
            revision,
            rejected=rejected,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            pickled_weights=pickled_weights,
            cluster=cluster,
            progress=progress.advance,
            begin=begin,
        )
    if not scorer:
        return
    counts = scorer["counts"]
    if counts["unreadable_images"]:
        output.warn(
            f"{counts['unreadable_images']:,} images could not be decoded, so their rows have no "
            f"similarities, for example {', '.join(scorer['unreadable'])}."
        )
    text = (
        f"{counts['sentences']:,} sentences of {counts['rows']:,} rows scored by {scorer['model']} "
        f"({scorer.get('revision') or scorer.get('fingerprint')}, {scorer['dtype']}): "
        f"{counts['distinct_sentences']:,} sentences and {counts['distinct_images']:,} images encoded, "
        f"{counts['windowed_sentences']:,} sentences longer than the model reads, scored in windows"
    )
    output.result(scorer, text, as_json)


def _need_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"scoring needs {' and '.join(missing)}, not installed here: pip install 'aspo-plugin[score]'."
        )
