"""`aspo inspect`: what a model makes of the sentences of a dataset, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dataset_tools.cli.errors import reported
from dataset_tools.cli.group import SETTINGS

app = typer.Typer(add_completion=False, context_settings=SETTINGS)


@app.command()
@reported
def inspect(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="Output folder of a run, a checkpoint, an adapter, or a model's id or folder; or the "
            "aspo_samples.jsonl that log_samples wrote.",
        ),
    ],
    dataset: Annotated[
        Path | None,
        typer.Argument(help="Folder of a converted dataset. Without one, the samples that the run kept."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show, spread over the dataset.")] = 30,
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("inspect.html"),
    before: Annotated[
        str | None, typer.Option(help="The model before training, where the run does not say.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="In place of the run's.", show_default="the run's, else 0.5")
    ] = None,
    normalization: Annotated[
        str | None, typer.Option(help="In place of the run's.", show_default="the run's, else weight")
    ] = None,
    weighting: Annotated[
        str | None, typer.Option(help="In place of the run's.", show_default="the run's, else paper")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in one forward pass.")] = 4,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:1.", show_default="a GPU where there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a page of images and sentences tinted by their weight, before training and after.

    Example: aspo inspect saves/llava-aspo rlaif-v --rows 50
    """
    from aspo_plugin.training.files import SAMPLES
    from dataset_tools.cli import output
    from dataset_tools.dataset.record import prepare_page, write_text
    from dataset_tools.errors import UsageError
    from dataset_tools.inspect.preview import page_of
    from dataset_tools.nearest import nearest_path

    kept = Path(run) / SAMPLES if Path(run).is_dir() else Path(run)
    if dataset is None:
        if not Path(run).exists():
            raise UsageError(f"{run} does not exist.{nearest_path(run)}")
        if not kept.is_file():
            raise UsageError(
                f"{run} kept no samples ({SAMPLES}): name a converted dataset to look at, or train with "
                "log_samples."
            )
    prepare_page(html)
    if dataset is None:
        from aspo_plugin.inspection.page import samples_page

        page = samples_page(kept, rows)
    else:
        options = {"alpha": alpha, "normalization": normalization, "weighting": weighting}
        page = _measured(run, dataset, rows, before, options, batch_size, device)
    write_text(html, page_of(page))
    found = {"path": str(html), "rows": len(page["rows"])}
    output.result(found, f"{html}: {found['rows']:,} pairs. Open it in a browser.", as_json)
    if dataset is None:
        output.note(f"next: aspo inspect {run} DATASET, to see its sentences before training and after")
    elif kept.is_file():
        output.note(f"next: aspo inspect {run}, to see the samples that training kept")
    else:
        output.note("next: keep such pairs while training, by log_samples")


def _measured(
    name: str,
    dataset: Path,
    number: int,
    before: str | None,
    options: dict[str, Any],
    batch_size: int,
    device: str | None,
) -> dict[str, Any]:
    from aspo_plugin.inspection.page import REFUSED, measured_page
    from aspo_plugin.inspection.run import find_run
    from dataset_tools.cli import output
    from dataset_tools.dataset.record import read_record
    from dataset_tools.dataset.schema import count_rows
    from dataset_tools.errors import UsageError
    from dataset_tools.inspect.preview import page_row, read_rows

    record, total = read_record(dataset), count_rows(dataset)
    if not total:
        raise UsageError(f"{dataset} has no rows to look at.")
    run = find_run(name, before, **options)
    picked = range(total) if number >= total else (index * total // number for index in range(number))
    places: dict[int, list[str]] = {index: [] for index in picked}
    found = list(read_rows(dataset, places))
    output.note(_told(run.before, run.after))
    if run.template:
        output.warn(
            f"this run trained with LLaMA-Factory's `template: {run.template}`. What follows is "
            "measured with the processor's chat template, which may put other words around the prompt: "
            "read it for the order of the sentences, not for the exact numbers of the run."
        )
    try:
        from aspo_plugin.inspection.measure import measure, prepare
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed: run this in the environment of a host "
            "(aspo-plugin[llamafactory], [axolotl] or [trl])."
        ) from None
    processor, rows, refused = prepare(run, [row for _, row in found])
    if not rows:
        raise UsageError(f"no row of {dataset} can be given to {run.before}: {next(iter(refused.values()))}.")
    passes = len(rows) * (2 if run.after else 1)
    with output.Progress("inspect", passes, "pairs") as progress:
        values = measure(run, processor, rows, batch_size=batch_size, device=device, advance=progress.advance)
    shown = [page_row(index, row, 480) for index, row in found]
    for place, reason in refused.items():
        output.warn(f"row {found[place][0]} cannot be trained, so it has no weights: {reason}")
        shown[place]["problems"].append(f"{REFUSED}: {reason}")
    if run.settings.weight_rejected and all(row["rejected_similarity"] is None for row in rows):
        given = run.settings.weighting == "given"
        remedy = "give them numbers as well" if given else "aspo-data score --rejected scores them"
        output.warn(
            f"the rejected answers of {dataset} are not scored, so their sentences weigh alike: {remedy}."
        )
    measured = {row["place"]: value for row, value in zip(rows, values, strict=True)}
    scorer = record.get("scorer")
    about = f"{len(shown):,} of {total:,} rows. "
    about += f"Similarities by {scorer['model']}." if scorer else "The sentences are not scored."
    return measured_page(run, shown, measured, about)


def _told(before: str, after: str | None) -> str:
    return f"inspect: {before}" if after is None else f"inspect: before training {before}, after {after}"
