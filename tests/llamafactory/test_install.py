"""Installing beside LLaMA-Factory brings nothing but our own packages, and changes no version."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ADDED = {"aspo-plugin", "syntok"}


def needs(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """The direct requirements of an installed distribution that apply here."""
    for text in requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        ):
            yield requirement


def closure(name: str) -> set[str]:
    """All that installing a distribution installs."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name)]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        try:
            waiting += needs(*key)
        except PackageNotFoundError:  # an optional one that this machine has no use for
            continue
    return {name for name, _ in found}


def test_installing_beside_the_host_changes_nothing() -> None:
    assert closure("aspo-plugin") - closure("llamafactory") == ADDED
    for requirement in needs("aspo-plugin"):
        assert version(requirement.name) in requirement.specifier, requirement


def test_the_tested_versions_are_those_of_the_constraint_files() -> None:
    from aspo_plugin.llamafactory import contract
    from tools.tested_versions import rows

    assert sorted(row[1] for row in rows() if row[0] == "LLaMA-Factory") == sorted(contract.TESTED)
