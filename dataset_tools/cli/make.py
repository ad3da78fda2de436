"""`aspo-data make`: everything from one file, each step skipped when it is done."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dataset_tools.errors import UsageError
from dataset_tools.nearest import nearest_path, not_here

KEYS = {"out", "sources", "score", "preview", "validate"}
SOURCE_KEYS = {"source", "share", "push"}
"""The keys of a source that are not options of `convert`."""
DONE = "make.json"


def make(
    file: Annotated[Path, typer.Argument(help="YAML file with the sources and steps.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
) -> None:
    """Convert, score, count, check and show one or several sources from one file; docs/data.md describes it.

    A step that is done is skipped, so the same command goes on after a stop and after a change of the file.

    Example: aspo-data make set.yaml
    """
    from dataset_tools.cli import output

    plan = read(file)
    out = Path(plan["out"])
    wanted = {name: steps_of(plan, name, source) for name, source in plan["sources"].items()}
    for steps in wanted.values():
        for _, command in steps:
            _check(command)
    _look_for_scorer(file, wanted, plan.get("score"))
    for name, steps in wanted.items():
        if steps and steps[0][0] == "convert":
            _look_for(file, name, plan["sources"][name])
    if not any(wanted.values()):
        output.note(f"{out}: every step of {file} is done")
    for name, source in plan["sources"].items():
        for title, command in wanted[name]:
            output.note(f"{name}: {title}")
            if not dry_run:
                _do(out, name, source, title, command)
    if dry_run:
        return
    _write_info(out, list(plan["sources"]))
    output.result({}, training(plan), False)


def read(file: Path) -> dict[str, Any]:
    """The plan of a file. Raises `UsageError` where a key is unknown, missing or has an impossible value."""
    import difflib

    import yaml

    if not file.is_file():
        raise UsageError(
            f"{file} does not exist: write the sources and steps into it, as docs/data.md shows."
            f"{nearest_path(file)}"
        )
    try:
        plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        told = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{file}{line}: no YAML: {told}. docs/data.md shows what it holds.") from None
    if not isinstance(plan, dict):
        raise UsageError(f"{file} holds no keys: it needs `out` and `sources`.")
    for key in plan:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(KEYS))}."
            raise UsageError(f"{file}: unknown key {key}; {hint}")
    sources = plan.get("sources")
    if not plan.get("out") or not isinstance(sources, dict) or not sources:
        raise UsageError(f"{file} needs `out` (a folder) and `sources` (a name and its settings, each).")
    for name, source in sources.items():
        if not isinstance(source, dict) or not source.get("source"):
            raise UsageError(f"{file}: {name} needs a `source` (Hub id, folder or file).")
        if str(name) != Path(str(name)).name or str(name).startswith(".") or "," in str(name):
            raise UsageError(
                f"{file}: {name!r} becomes a folder's and a dataset's name; it holds / or a comma."
            )
    shares = [source.get("share") for source in sources.values()]
    if any(share is not None for share in shares):
        numbers = all(isinstance(share, int | float) and share > 0 for share in shares)
        if not numbers or abs(sum(shares) - 1) > 1e-6:
            raise UsageError(
                f"{file}: every source has a `share` above 0, together 1, or none has; not {shares}."
            )
    return plan


def steps_of(plan: dict[str, Any], name: str, source: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What is still to do for a source: (what it is, the arguments of aspo-data)."""
    folder = Path(plan["out"]) / name
    done = _done(Path(plan["out"])).get(name, {})
    record_path = folder / "aspo.json"
    steps: list[tuple[str, list[str]]] = []
    if record_path.is_file():
        if done.get("settings") != _fingerprint(source):
            raise UsageError(
                f"{folder} was made with other settings than the file's: remove it to make it again, or give "
                "the source another name."
            )
        files = _files_state(source)
        if files and done.get("files", files) != files:
            raise UsageError(
                f"{folder}: the files of {source['source']} have changed since it was made: remove "
                f"{folder} to make it again, or give the source another name."
            )
    else:
        arguments = ["convert", str(source["source"]), str(folder), *_options(source)]
        if folder.with_name(f"{name}.incomplete").is_dir():
            arguments.append("--resume")
        steps.append(("convert", arguments))
    score = plan.get("score")
    if score:
        settings = {} if score is True else dict(score)
        scorer = _scorer(record_path)
        model = settings.get("model")
        same = scorer and (not model or _is_by(scorer, str(model)))
        if not same or settings.get("rejected") and not (scorer or {}).get("rejected"):
            steps.append(("score", ["score", str(folder), *_options(settings)]))
    page, picture = folder.with_suffix(".html"), folder.with_suffix(".svg")
    state = _state(folder) if record_path.is_file() and not steps else ""
    for title, wanted, made, command in (
        ("stats", True, picture.is_file(), ["stats", str(folder), "--picture", str(picture)]),
        ("validate", plan.get("validate", True), True, ["validate", str(folder)]),
        ("preview", plan.get("preview", True), page.is_file(), ["preview", str(folder), "--html", str(page)]),
        ("push", source.get("push"), True, ["push", str(folder), str(source.get("push")), "--private"]),
    ):
        if wanted and not (state and made and done.get(title) == state):
            steps.append((title, command))
    return steps


def training(plan: dict[str, Any]) -> str:
    """The lines of a recipe that train on the mix, for both hosts."""
    out, sources = Path(plan["out"]), plan["sources"]
    lines = [f"# LLaMA-Factory\ndataset_dir: {out}\ndataset: {','.join(sources)}"]
    shares = [source.get("share") for source in sources.values()]
    if shares[0] is not None and len(shares) > 1:
        lines.append(
            "mix_strategy: interleave_under  # stops when the first source is used up; _over: the last"
        )
        lines.append(f"interleave_probs: {','.join(map(str, shares))}")
    lines.append("\n# Axolotl (takes all rows of each: `limit` sets how many that are)\ndatasets:")
    lines += [
        f"  - path: {out / name}\n    split: {source.get('split', 'train')}"
        for name, source in sources.items()
    ]
    return "\n".join(lines)


def _options(settings: dict[str, Any]) -> list[str]:
    """YAML keys as options: `image_root: [a, b]`, `column: {prompt: question}`, `number_rows: true`."""
    arguments: list[str] = []
    for key, value in settings.items():
        option = "--" + str(key).replace("_", "-")
        if key in SOURCE_KEYS or value is None or value is False:
            continue
        if isinstance(value, dict):
            arguments += [f"{option}={name}={column}" for name, column in value.items()]
        elif isinstance(value, list):
            arguments += [f"{option}={item}" for item in value]
        else:
            arguments += [option] if value is True else [f"{option}={value}"]
    return arguments


def _check(command: list[str]) -> None:
    """Read the options without running the command: a misspelt one is met before the first source is read."""
    from dataset_tools.cli import app

    group: Any = typer.main.get_command(app)
    single = group.get_command(None, command[0])
    single.make_context(f"aspo-data {command[0]}", list(command[1:]))


def _look_for(file: Path, name: str, source: dict[str, Any]) -> None:
    """Raise `UsageError` where a source that is still to be read is nowhere: its turn may come in hours."""
    from dataset_tools.convert.image_places import given_roots
    from dataset_tools.convert.locate import locate

    roots = source.get("image_root") or []
    try:
        given_roots(Path(str(root)) for root in (roots if isinstance(roots, list) else [roots]))
        if os.path.exists(Path(str(source["source"])).expanduser()):
            return
        locate(str(source["source"]), source.get("revision"))
    except UsageError as error:
        raise UsageError(f"{file}: {name}: {error}") from None


def _look_for_scorer(file: Path, wanted: dict[str, list[tuple[str, list[str]]]], score: Any) -> None:
    """Raise `UsageError` where rows are still to be scored, by a model that cannot be found."""
    model = score.get("model") if isinstance(score, dict) else None
    if model is None or not any(title == "score" for steps in wanted.values() for title, _ in steps):
        return
    if not Path(str(model)).expanduser().exists() and (problem := not_here(str(model))):
        raise UsageError(f"{file}: score: {problem}")


def _do(out: Path, name: str, source: dict[str, Any], title: str, command: list[str]) -> None:
    """Run a step and note that it is done.

    A dataset that `convert` made is noted even where its exit code says that many rows were refused: it is
    whole, and the next `make` goes on with it.
    """
    if title != "convert":
        _run(command)
        _mark(out, name, source, {title: _state(out / name)})
        return
    files = _files_state(source)
    try:
        _run(command)
    finally:
        if (out / name / "aspo.json").is_file():
            _mark(out, name, source, {title: _state(out / name), "files": files})


def _run(command: list[str]) -> None:
    from dataset_tools.cli import app, errors

    with errors.within_another():
        code = typer.main.get_command(app).main(command, prog_name="aspo-data", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def _scorer(record: Path) -> dict[str, Any] | None:
    return json.loads(record.read_text(encoding="utf-8")).get("scorer") if record.is_file() else None


def _is_by(scorer: dict[str, Any], model: str) -> bool:
    """Whether the record names this model; a folder is recorded by its name and content, not by its path."""
    from dataset_tools.scoring.encoder import Identity, identity_of_folder

    wanted = (identity_of_folder(model) or Identity(model)).as_dict()
    return all(scorer.get(name) == value for name, value in wanted.items())


def _fingerprint(source: dict[str, Any]) -> str:
    """What decides the rows of a source; shares, and how fast it is read, do not."""
    kept = {
        key: value
        for key, value in source.items()
        if key not in ("share", "push", "workers", "max_bad", "engine", "address")
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _files_state(source: dict[str, Any]) -> str:
    """Sizes and times of the files of a source on this disk; empty where it is on the Hub, or gone."""
    path = Path(str(source["source"])).expanduser()
    if not path.exists():
        return ""
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            status = file.stat()
            found.append([file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _done(out: Path) -> dict[str, Any]:
    path = out / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _mark(out: Path, name: str, source: dict[str, Any], states: dict[str, str]) -> None:
    from dataset_tools.dataset.record import write_json

    done = _done(out)
    done[name] = {**done.get(name, {}), "settings": _fingerprint(source), **states}
    write_json(out / DONE, done)


def _state(folder: Path) -> str:
    return hashlib.sha256((folder / "aspo.json").read_bytes()).hexdigest()


def _write_info(out: Path, names: list[str]) -> None:
    """One `dataset_info.json` over all folders: LLaMA-Factory mixes datasets of one `dataset_dir`."""
    from dataset_tools.dataset.folder import DATASET_INFO
    from dataset_tools.dataset.record import write_json

    entries = {}
    for name in names:
        own = json.loads((out / name / DATASET_INFO).read_text(encoding="utf-8"))
        entry = next(iter(own.values()))
        entries[name] = {**entry, "file_name": f"{name}/{entry['file_name']}"}
    write_json(out / DATASET_INFO, entries)
