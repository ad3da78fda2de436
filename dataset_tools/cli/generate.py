"""`aspo-data generate`: preference pairs of a model's own answers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_SCORER = "openai/clip-vit-large-patch14-336"


class Distort(str, Enum):
    """`dataset_tools.generate.distortions.Distortion`, which would cost `--help` the import of numpy."""

    NOISE = "noise"
    BLUR = "blur"
    CROP = "crop"
    BLANK = "blank"


def generate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES_PROMPTS",
            help="JSONL, JSON, CSV or parquet file with prompts and images, its folder, or hf:// address.",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make; `aspo-data convert OUT` reads it.")],
    model: Annotated[
        str,
        typer.Option(help="Hub id or folder of a vision-language model; with --endpoint, its name there."),
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask an OpenAI-compatible server (vLLM), for example http://127.0.0.1:8000/v1."),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's key.", metavar="NAME")
    ] = None,
    distort: Annotated[
        Distort,
        typer.Option(
            metavar="WAY",
            help="What is done to the picture behind the rejected answer: noise, blur, crop or blank.",
        ),
    ] = Distort.NOISE,
    noise_step: Annotated[
        int, typer.Option(metavar="N", min=0, max=999, help="Step of the diffusion noise, of 1000.")
    ] = 500,
    best_of: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Instead: best against worst of this many samples, by similarity with the picture.",
        ),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="CLIP-like model that ranks the samples of --best-of.", show_default="that of score"
        ),
    ] = DEFAULT_SCORER,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0.0, help="0 is greedy. Default: 0; with --best-of 1.", show_default=False
        ),
    ] = None,
    top_p: Annotated[
        float, typer.Option(metavar="N", min=0.01, max=1.0, help="Where the temperature is above 0.")
    ] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")] = 512,
    image_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder, zip or tar file below which image paths are found. May be repeated."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="prompt=COLUMN or image=COLUMN. May be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Read only this many rows.")] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows per model call, or requests at once.")
    ] = 8,
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 on a GPU, else float32), float32, float16 or bfloat16.")
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1, cpu, ... Default: a GPU, else CPU.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise, crops and samples.")] = 0,
    shard_rows: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Rows of the source per parquet file, done again after a stop."
        ),
    ] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with unfinished work.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Make preference pairs of a model's own answers, as ASPO's paper and SeVa do.

    Chosen is the answer to the picture, rejected the answer to the noised one (or blurred,
    cropped, blank); with --best-of, the best and the worst of several samples. Identical pairs
    and empty answers are dropped and counted. A stopped run goes on with --resume.

    \b
    Examples:
      aspo-data generate llava_instruct_150k.json out --model llava-hf/llava-1.5-7b-hf --image-root coco
      aspo-data generate prompts.jsonl out --model my-vlm --endpoint http://127.0.0.1:8000/v1 --best-of 5
    """
    from dataset_tools.cli import output
    from dataset_tools.cli.convert import parse_columns
    from dataset_tools.errors import UsageError

    columns = parse_columns(column or [])
    if unknown := sorted(set(columns) - {"prompt", "image"}):
        raise UsageError(f"--column {unknown[0]}=...: the names are prompt and image.")
    if best_of and distort is not Distort.NOISE:
        raise UsageError("--best-of takes all samples from the clean picture: leave --distort out.")
    heat = (1.0 if best_of else 0.0) if temperature is None else temperature
    if best_of and not heat:
        raise UsageError("--best-of needs samples that differ: a --temperature above 0.")
    if endpoint and (revision or device or dtype != "auto"):
        raise UsageError("--revision, --dtype and --device are the server's business with --endpoint.")
    _need(torch=not endpoint or bool(best_of))

    from dataset_tools.generate.answers import Answerer, Sampling
    from dataset_tools.generate.distortions import Distortion
    from dataset_tools.generate.generation import Generation, Settings
    from dataset_tools.generate.local_model import LocalModel, named
    from dataset_tools.generate.pairing import BestAgainstWorst, CleanAgainstDistorted

    sampling = Sampling(heat, top_p, max_new_tokens, best_of or 1)
    recipe: dict[str, Any] = {"best_of": best_of} if best_of else {"distort": distort.value}
    if not best_of and distort is Distort.NOISE:
        recipe["noise_step"] = noise_step
    asked = {"answers": {"model": model, "served": True} if endpoint else {**named(model, revision)}}
    if not endpoint and dtype != "auto":
        asked["answers"]["dtype"] = dtype
    if best_of:
        from dataset_tools.scoring.encoder import identity_of_folder

        ranked_by = identity_of_folder(scorer)
        asked["scorer"] = {**ranked_by.as_dict()} if ranked_by else {"model": scorer}
    generation = Generation(
        Settings(
            source=source,
            out=out,
            image_roots=image_root or [],
            columns=columns,
            limit=limit,
            shard_rows=shard_rows,
            batch_size=batch_size,
            seed=seed,
            resume=resume,
            recipe=recipe,
            sampling=sampling,
            models=asked,
        )
    )
    if generation.done is None:
        output.note(f"asking {model}{f' at {endpoint}' if endpoint else ': loading the model'}")
        models: dict[str, Any] = {}
        answerer: Answerer
        if endpoint:
            from dataset_tools.generate.endpoint import Endpoint

            answerer = Endpoint(endpoint, model, api_key_env)
        else:
            answerer = LocalModel(model, revision, device, dtype)
        models["answers"] = answerer.identity()
        make: Any
        if best_of:
            from dataset_tools.scoring.scorer import SentenceScorer

            ranking = SentenceScorer(scorer, device=device)
            models["scorer"] = ranking.identity.as_dict()
            make = BestAgainstWorst(answerer, sampling, ranking)
        else:
            make = CleanAgainstDistorted(answerer, sampling, Distortion(distort.value), noise_step)
        with output.Progress("generate", generation.total) as progress:
            counts = generation.run(make, models, progress.advance, output.warn)
    else:
        counts = generation.done
    summary = {"out": str(out), **counts.as_dict()}
    output.result(summary, _summary(summary), as_json)
    if counts.cut_answers:
        output.warn(
            f"{counts.cut_answers:,} of {2 * counts.pairs:,} answers were cut off at {max_new_tokens} "
            "tokens, in the middle of a sentence: a larger --max-new-tokens lets them end."
        )
    if counts.thoughts:
        output.warn(
            f"the model thought before {counts.thoughts:,} of {2 * counts.pairs:,} answers: the thoughts "
            "were taken out of the pairs."
        )


def _summary(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['pairs']:,} pairs of {summary['read']:,} rows in {summary['out']}: "
        f"{summary['left_out']:,} left out, {summary['refused']:,} refused"
    ]
    for name, log in (("skipped", "left_out"), ("reasons", "rejected")):
        if summary[name]:
            lines.append(f"listed in {summary['out']}/{log}.jsonl:")
            lines += [f"  {count:>8,}  {reason}" for reason, count in summary[name].items()]
    return "\n".join(lines)


def _need(torch: bool) -> None:
    from importlib.util import find_spec

    from dataset_tools.errors import UsageError

    missing = [name for name in ("torch", "transformers") if torch and find_spec(name) is None]
    if missing:
        raise UsageError(
            f"generating needs {' and '.join(missing)}, not installed here: pip install "
            "'aspo-plugin[score]', or give --endpoint."
        )
