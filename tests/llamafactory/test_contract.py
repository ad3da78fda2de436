"""Every place of LLaMA-Factory that the package relies on is there, the Board's among them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from aspo_plugin.llamafactory import contract, patches


def test_every_place_is_there() -> None:
    contract.check_host()


@pytest.mark.parametrize("name", sorted(patches.ADJUSTMENTS))
def test_every_adjustment_finds_its_place(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("webui."):
        pytest.importorskip("gradio")
    try:
        import_module(f"{contract.PACKAGE}.{name}")
    except ModuleNotFoundError:
        assert name.startswith("v1."), "only the host's next generation is missing in some versions"
    assert f"{contract.PACKAGE}.{name}" not in contract.problems
    assert "aspo-plugin" not in capsys.readouterr().err


def test_a_place_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: Any = ("data.loader", "gone", ())
    monkeypatch.setattr(contract, "PLACES", (*contract.PLACES, moved))
    with pytest.raises(RuntimeError, match=r"data\.loader\.gone does not exist"):
        contract.check_host()
