"""The fields of ASPO in LLaMA Board, also in a layout that is another; `tests/browser` has the real board."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aspo_plugin.llamafactory.board import FIELDS, add_texts, arguments_of, with_fields

gradio = pytest.importorskip("gradio")


class Manager:
    """As the host's, as far as a tab needs it."""

    def __init__(self) -> None:
        self.elements: dict[str, Any] = {}

    def get_base_elems(self) -> set[Any]:
        return set()

    def get_elem_by_id(self, name: str) -> Any:
        return self.elements[name]


def tab(*, section: str = "rlhf_tab") -> Any:
    """A small tab with what ours relies on, whose button takes the base elements as the host's do."""

    def create_train_tab(engine: Any) -> dict[str, Any]:
        inputs = engine.manager.get_base_elems() if hasattr(engine.manager, "get_base_elems") else set()
        stage = gradio.Dropdown(["DPO", "ASPO"], value="DPO")
        with gradio.Accordion(open=False) as accordion:
            loss = gradio.Dropdown(["sigmoid", "ipo"], value="sigmoid")
            beta, ftx = gradio.Slider(value=0.1), gradio.Slider(value=0)
        gradio.Button().click(lambda values: None, inputs | {stage, loss})
        elements = {"training_stage": stage, "pref_loss": loss, "pref_beta": beta, "pref_ftx": ftx}
        return {**elements, section: accordion}

    return create_train_tab


def made(create: Any, manager: Any) -> tuple[dict[str, Any], list[Any]]:
    """The elements and the functions of the events, all of whose inputs are on the page."""
    with gradio.Blocks() as blocks:
        elements = with_fields(create)(SimpleNamespace(manager=manager))
    events = list(blocks.fns.values())
    assert all(element._id in blocks.blocks for event in events for element in event.inputs)
    return elements, [event.fn for event in events]


def test_fields_follow_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    elements, functions = made(tab(), Manager())
    assert set(FIELDS) <= set(elements) and not capsys.readouterr().err
    section, loss, *fields = functions[-1]("ASPO")
    assert section["open"] and loss["choices"] == ["sigmoid"] and all(field["visible"] for field in fields)
    section, loss, *fields = functions[-1]("DPO")
    assert "open" not in section and not any(field["visible"] for field in fields)
    assert [value for _, value in loss["choices"]] == ["sigmoid", "ipo"]


def test_another_layout_costs_the_fields_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    elements, functions = made(tab(section="preferences"), Manager())
    assert len(functions) == 1 and not any(elements[name].visible for name in FIELDS)
    assert capsys.readouterr().err.count("could not add ASPO's fields to LLaMA Board") == 1
    elements, _ = made(tab(), SimpleNamespace())  # nothing that says what the buttons are given
    assert not set(FIELDS) & set(elements) and "training_stage" in elements
    assert capsys.readouterr().err.count("could not add ASPO's fields to LLaMA Board") == 1


def test_what_the_fields_say_becomes_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    manager = Manager()
    elements, _ = made(tab(), manager)
    manager.elements = {f"train.{name}": element for name, element in elements.items()}
    data = {element: getattr(element, "value", None) for element in elements.values()}
    data[elements["aspo_similarity_model"]] = ""
    runner = SimpleNamespace(manager=manager)
    found = {"pref_beta": 0.1, "pref_ftx": 0, "pref_loss": "sigmoid", "aspo_alpha": 0.5}
    assert arguments_of(runner, data) == {**found, "aspo_normalization": "weight"}
    del manager.elements["train.pref_beta"], manager.elements["train.aspo_alpha"]
    assert "pref_beta" not in arguments_of(runner, data)
    assert capsys.readouterr().err == "LLaMA Board has no field 'pref_beta': give it as an extra argument.\n"


def test_a_language_that_the_texts_do_not_know_is_english() -> None:
    locales = {"pref_beta": {"en": {"label": "Beta"}, "ja": {"label": "ベータ"}, "fr": {"label": "Bêta"}}}
    add_texts(locales)
    assert locales["aspo_alpha"]["fr"] == locales["aspo_alpha"]["en"] != locales["aspo_alpha"]["ja"]
