"""`aspo recipes`: the recipes that travel with the package."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer

from dataset_tools.cli.group import SETTINGS

app = typer.Typer(
    no_args_is_help=True, add_completion=False, context_settings=SETTINGS, help="List and copy the recipes."
)
_SHARED = re.compile(r"(?m)^[^#\n]*?(recipes/shared/[\w./-]+)")
INSTALLED = "share/aspo-plugin/recipes"
HOSTS = ("llamafactory", "axolotl")


def root() -> Path:
    """The folder of the recipes: of the clone that is installed, or where the wheel put them."""
    clone = Path(__file__).resolve().parents[2] / "recipes"
    if (clone / "README.md").is_file():
        return clone
    try:
        files = distribution("aspo-plugin").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"{INSTALLED}/README.md"):
            return Path(str(file.locate())).resolve().parent
    raise typer.BadParameter("this installation has no recipes: take them from the repository")


def names() -> list[str]:
    """All recipes as host/model."""
    folder = root()
    return [f"{host}/{path.stem}" for host in HOSTS for path in sorted((folder / host).glob("*.yaml"))]


def shared() -> dict[str, Path]:
    """Files laid over a recipe, for several GPUs or a comparison: shared/host/name -> file."""
    folder = root() / "shared"
    return {
        f"shared/{host}/{path.stem}": path
        for host, ending in (("llamafactory", ".args"), ("axolotl", ".yaml"))
        for path in sorted((folder / host).glob(f"*{ending}"))
    }


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """Print every recipe: host, model, and its first line.

    Example: aspo recipes list
    """
    found = names()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max(len(name) for name in [*found, *shared()])
    for name in found:
        first = (root() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        typer.echo(f"{name:<{width}}  {first.lstrip('# ')}")
    for name, path in shared().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        about = first.lstrip("# ").partition(":  ")[0] if path.suffix == ".yaml" else "laid over a recipe"
        typer.echo(f"{name:<{width}}  {about}")
    typer.echo(f"\nnext: aspo recipes copy {found[0]}", err=True)


@app.command()
def copy(
    name: Annotated[
        str, typer.Argument(help="host/model or shared/host/file, as `aspo recipes list` prints it.")
    ],
    to: Annotated[Path, typer.Argument(help="File or folder to copy it to.")] = Path("."),
) -> None:
    """Copy a recipe, and the files that it names, to where you can change it. Nothing is overwritten.

    Example: aspo recipes copy llamafactory/llava-1.5-7b recipe.yaml
    """
    overlays = shared()
    found = [*names(), *overlays]
    wanted = name.removesuffix(".yaml").removesuffix(".args").removeprefix("recipes/")
    if wanted not in found:
        near = difflib.get_close_matches(wanted, found, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`aspo recipes list` prints all."
        raise typer.BadParameter(f"there is no recipe {name}. {hint}")
    source = overlays.get(wanted) or root() / f"{wanted}.yaml"
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise typer.BadParameter(f"{target} exists: give another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8").replace(f"recipes/{wanted}{source.suffix}", str(target))
    for named in sorted(set(_SHARED.findall(text))):
        beside = target.parent / Path(named).name
        if not beside.exists():
            shutil.copyfile(root().parent / named, beside)
            typer.echo(str(beside))
        text = re.sub(rf"(?m)^([^#\n]*){re.escape(named)}", rf"\g<1>{beside}", text)
    target.write_text(text, encoding="utf-8")
    typer.echo(str(target))
    host, shown = wanted.partition("/")[0], shlex.quote(str(target))
    if wanted in overlays:
        laid = f"RECIPE $(cat {shown})" if source.suffix == ".args" else f"RECIPE --sweep {shown}"
        command = "llamafactory-cli train" if source.suffix == ".args" else "axolotl train"
        typer.echo(f"next: aspo plan RECIPE --with {shown} --gpus 8, then {command} {laid}", err=True)
        return
    command = "llamafactory-cli train" if host == "llamafactory" else "axolotl train"
    typer.echo(f"next: set your dataset in it, then aspo plan {shown}, then {command} {shown}", err=True)
