"""`--engine` and `--address`: this machine, or a Ray cluster that is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from dataset_tools.errors import UsageError

if TYPE_CHECKING:
    from dataset_tools.cluster import Cluster


class Engine(str, Enum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


EngineOption = Annotated[
    Engine, typer.Option(help="Who does the work: this machine, or a Ray cluster that is running.")
]
AddressOption = Annotated[
    str | None, typer.Option(help="Of the Ray cluster.", show_default="RAY_ADDRESS, else this machine's")
]


def check_engine(engine: Engine, address: str | None) -> None:
    """Raise `UsageError` where an address is given to no cluster."""
    if address and engine is Engine.LOCAL:
        raise UsageError(f"--address {address} is a Ray cluster's: add --engine ray, or leave it out.")


@contextmanager
def cluster_of(engine: Engine, address: str | None) -> Iterator[Cluster | None]:
    """The cluster that is asked for, told in a line; None for this machine alone."""
    if engine is Engine.LOCAL:
        yield None
        return
    from dataset_tools.cli import output
    from dataset_tools.cluster import connected

    with connected(address) as cluster:
        output.note(f"on a Ray cluster of {cluster.told()}")
        yield cluster
