"""`aspo-data convert`: a source dataset to a sentence-annotated one."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from dataset_tools.cli import output
from dataset_tools.cli.engine import AddressOption, Engine, EngineOption, check_engine, cluster_of
from dataset_tools.errors import UsageError

SOURCES = (
    *("rlaif-v", "vlfeedback", "bpo", "rlhf-v", "vl-rewardbench", "arena", "sentinel", "ms-swift"),
    *("llamafactory", "trl", "povid", "seva", "mmpr", "llava-preference", "jsonl"),
)
"""The names of `dataset_tools.sources.REGISTRY`, which would cost `--help` the import of pyarrow."""


class Pairs(str, Enum):
    """Which of several rated completions are paired."""

    ALL = "all"
    BEST_WORST = "best-worst"


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Hub id (owner/name), hf:// or https:// address of a dataset, folder or file."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from",
            help=f"Layout of the source: {', '.join(SOURCES)}. Found from its columns when left out.",
            autocompletion=lambda incomplete: [kind for kind in SOURCES if kind.startswith(incomplete)],
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of a Hub dataset. Pin a commit.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the source to read.")] = "train",
    config: Annotated[
        str | None,
        typer.Option(help="Config (subset) of the source, or its folder, where it has several."),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="Read the data files that match this GLOB, whatever their split. May be repeated."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Read only this many rows; of a Hub dataset, no more is fetched than they need."
        ),
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows per parquet file.")] = 5000,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that split texts; 0 takes one per CPU core.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished conversion.")] = False,
    image_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder, zip or tar file below which image paths are found. May be repeated."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column mapping NAME=COLUMN, for jsonl and llamafactory. May be repeated."),
    ] = None,
    pairs: Annotated[
        Pairs, typer.Option(help="Which rated completions to pair (vlfeedback, bpo).")
    ] = Pairs.ALL,
    min_margin: Annotated[
        float,
        typer.Option(min=0.0, help="Leave out pairs whose ratings are closer than this (vlfeedback, bpo)."),
    ] = 0.0,
    number_rows: Annotated[
        bool, typer.Option("--number-rows", help="Number the rows instead of using the source's ids.")
    ] = False,
    keep_repeated_ids: Annotated[
        bool,
        typer.Option(
            "--keep-repeated-ids",
            help="Keep rows whose id repeats, numbered: their picture may be another row's (vlfeedback).",
        ),
    ] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Reject larger images. Pillow's limit when left out.")
    ] = None,
    max_bad: Annotated[
        str, typer.Option(help="Share of rejected rows above which the exit code is 1.")
    ] = "1%",
    engine: EngineOption = Engine.LOCAL,
    address: AddressOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List files and sizes, try the first rows, write nothing."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Convert a preference dataset to one annotated with sentences.

    Texts are split into sentences, images passed on byte for byte. Rows that cannot be used
    go to OUT/rejected.jsonl with the reason. A stopped conversion goes on with --resume.

    \b
    Examples:
      aspo-data convert openbmb/RLAIF-V-Dataset rlaif-v --revision main
      aspo-data convert vlfeedback/ out --from vlfeedback --pairs best-worst --min-margin 1
      aspo-data convert pairs.jsonl out --column prompt=question --column images=file --image-root photos
    """
    share = parse_share(max_bad)
    check_engine(engine, address)
    if engine is Engine.RAY and workers:
        raise UsageError(
            f"--workers {workers} is of this machine: --engine ray has one on each CPU it finds."
        )
    from dataset_tools.convert.conversion import Conversion, Settings
    from dataset_tools.images.opening import MAX_PIXELS
    from dataset_tools.sources import Options

    settings = Settings(
        source=source,
        out=out,
        kind=kind,
        revision=revision,
        split=split,
        config=config,
        files=files or [],
        limit=limit,
        shard_rows=shard_rows,
        workers=workers or os.cpu_count() or 1,
        resume=resume,
        image_roots=image_root or [],
        options=Options(pairs=pairs.value, min_margin=min_margin, columns=parse_columns(column or [])),
        number_rows=number_rows,
        keep_repeated_ids=keep_repeated_ids,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    conversion = Conversion(settings)
    output.note(f"reading {conversion.located.location} as {conversion.source.name}")
    if dry_run:
        _dry_run(conversion, as_json)
        return
    for line in _files(conversion):
        output.note(line)
    if engine is Engine.RAY:
        conversion.check_cluster()
    if conversion.check_out():  # whole already: no machine is needed
        engine = Engine.LOCAL
    with cluster_of(engine, address) as cluster:
        conversion.prepare()
        with output.Progress("convert", conversion.total) as progress:
            tally = conversion.run(progress.advance, cluster, progress.begin)
    summary = {
        "out": str(out),
        "from": conversion.source.name,
        "files": conversion.files,
        "files_not_read": conversion.left_files,
        **tally.as_dict(),
    }
    output.result(summary, _summary(summary), as_json)
    if tally.rejected and tally.bad_share() > share:
        from dataset_tools.convert.begun import HINTS

        hint = "".join(f" {cure}" for reason, cure in HINTS.items() if reason in tally.reasons)
        output.warn(
            f"{tally.bad_share():.1%} of the rows were rejected, more than --max-bad {max_bad}: "
            f"see {out / 'rejected.jsonl'}. {out} is whole all the same.{hint}"
        )
        raise typer.Exit(1)


def parse_share(value: str) -> float:
    """`1%` or `0.01` as a number from 0 to 1."""
    try:
        share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--max-bad {value} is not a share: write 1% or 0.01.")
    return share


def parse_columns(values: list[str]) -> dict[str, str]:
    """`NAME=COLUMN` texts as a mapping."""
    mapping = {}
    for value in values:
        name, sign, column = value.partition("=")
        if not sign or not name or not column:
            raise UsageError(f"--column {value} is not of the form NAME=COLUMN, for example prompt=question.")
        if re.search(r",\s*\w+=", column):
            raise UsageError(f"--column {value} names several columns: write --column once for each of them.")
        mapping[name] = column
    return mapping


def _files(conversion: Any, most: int = 10) -> list[str]:
    """Lines that say which data files are read, which are not and why, and what images are fetched from."""
    from dataset_tools.convert.files import readable_size

    files, left, images = conversion.files, conversion.left_files, conversion.images_to_fetch
    lines = [f"  read      {name} ({readable_size(size)})" for name, size in list(files.items())[:most]]
    if len(files) > most:
        lines.append(
            f"  read      and {len(files) - most} more ({readable_size(sum(files.values()))} in all)"
        )
    lines += [f"  not read  {name}: {reason}" for name, reason in list(left.items())[:most]]
    if len(left) > most:
        lines.append(
            f"  not read  and {len(left) - most} more, listed in {conversion.settings.out}/aspo.json"
        )
    parts = conversion.settings.limit is not None
    how = "read in parts" if parts else "fetched whole if it holds images"
    lines += [
        f"  images    {name} ({readable_size(size)}), {how}" for name, size in list(images.items())[:most]
    ]
    if len(images) > most:
        lines.append(
            f"  images    and {len(images) - most} more ({readable_size(sum(images.values()))} in all)"
        )
    return lines


def _summary(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['rows']:,} rows with {summary['sentences']:,} sentences in {summary['out']}",
        f"{summary['read']:,} rows read: {summary['kept_rows']:,} kept, {summary['refused_rows']:,} refused, "
        f"{summary['left_out_rows']:,} left out; {summary['text_only']:,} of the written rows have no image",
    ]
    if summary["rejected"]:
        lines.append(f"{summary['rejected']:,} refused, listed in {summary['out']}/rejected.jsonl:")
        lines += [f"  {count:>8,}  {reason}" for reason, count in summary["reasons"].items()]
    if summary["skipped"]:
        count = sum(summary["skipped"].values())
        lines.append(f"{count:,} rows or pairs left out, listed in {summary['out']}/left_out.jsonl:")
        lines += [f"  {count:>8,}  {reason}" for reason, count in summary["skipped"].items()]
    return "\n".join(lines)


def _dry_run(conversion: Any, as_json: bool) -> None:
    from dataset_tools.convert.files import readable_size

    source = conversion.source
    files = conversion.files
    if not as_json:
        head = [f"source    {source.name}: {source.about}"]
        head.append(f"files     {len(files)}, {readable_size(sum(files.values()))}")
        typer.echo("\n".join([*head, *_files(conversion)]))
    tally, example = conversion.preview(rows=100)
    value = {
        "dry_run": True,
        "from": source.name,
        "files": files,
        "files_not_read": conversion.left_files,
        "images_to_fetch": conversion.images_to_fetch,
        "total_rows": conversion.total_rows,
        "first_rows": tally.as_dict(),
        "example": example,
    }
    total = conversion.total_rows
    lines = [
        f"rows      {'unknown' if total is None else f'{total:,}'}",
        f"of the first {tally.read}: {tally.rows} pairs, {tally.rejected} refused, "
        f"{sum(tally.skipped.values())} left out, {tally.text_only} without an image",
    ]
    lines += [f"  {count:>8,}  {reason}" for reason, count in (tally.reasons + tally.skipped).items()]
    if example:
        lines.append(f"example   {example['id']}: {example['prompt'][-1]['content'][:200]!r}")
    lines.append("nothing was written")
    output.result(value, "\n".join(lines), as_json)
