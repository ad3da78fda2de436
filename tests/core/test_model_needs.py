"""What a model needs beyond its host is one line, with the command that brings it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aspo_plugin.training.model_needs import missing_packages_named, refuse_broken
from tests.support import backbones

ROOT = Path(__file__).resolve().parents[2]
# Transformers looks for packages by their spec; importing one must fail as well.
HIDE = """
import importlib.util, sys
hidden, model = sys.argv[1:]
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.split(".")[0] == hidden else find(name, *more)

class Hides:
    def find_spec(self, name, *more):
        if name.split(".")[0] == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hides())
from aspo_plugin.training.model_needs import name_missing_packages
try:
    name_missing_packages(model)
except ImportError as error:
    print(error)
else:
    print("nothing is missing")
"""


@pytest.mark.parametrize(
    ("architecture", "package"),
    [("qwen2_5_vl", "torchvision"), ("smolvlm", "num2words"), ("llava", "num2words")],
)
def test_a_package_that_a_processor_needs_is_named(architecture: str, package: str, tmp_path: Path) -> None:
    model = backbones.build(architecture, tmp_path / architecture)
    run = subprocess.run(
        [sys.executable, "-c", HIDE, package, str(model)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    needs = f"{model} needs {package}, which is not installed: pip install {package}"
    assert run.stdout.splitlines()[-1] == ("nothing is missing" if architecture == "llava" else needs)


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ImportError("X requires the PyAv library but it was not found.\npip install av\n"), "av"),
        (
            ImportError("X requires the Torchvision library but it was not found."),
            "torchvision",
        ),
        (ImportError("packages that were not found: einops. Run `pip install einops`"), "einops"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "timm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_way_of_telling(error: ImportError, package: str) -> None:
    with pytest.raises(ImportError, match=f"^a/b needs {package}, .*: pip install {package}$"):
        with missing_packages_named("a/b"):
            raise error


def test_a_package_behind_an_error_that_names_a_class() -> None:
    with pytest.raises(ImportError, match=r"^a/b needs timm, .*: pip install timm$"):
        with missing_packages_named("a/b"):
            try:
                raise ModuleNotFoundError("No module named 'timm.layers'", name="timm.layers")
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("Could not import module 'XProcessor'.") from error


def test_other_errors_stay_what_they_are() -> None:
    for error in (ImportError("cannot import name 'a' from 'b'"), KeyError("a")):
        with pytest.raises(type(error)) as raised, missing_packages_named("a/b"):
            raise error
        assert raised.value is error


def test_a_paligemma_that_sees_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel

    def forward(self: Any, token_type_ids: Any = None, labels: Any = None) -> Any:
        return token_type_ids is not None and labels is not None

    monkeypatch.setattr(PaliGemmaModel, "forward", lambda self: None)
    refuse_broken(SimpleNamespace(model_type="paligemma"))
    monkeypatch.setattr(PaliGemmaModel, "forward", forward)
    with pytest.raises(ValueError, match="install transformers 5"):
        refuse_broken(SimpleNamespace(model_type="paligemma"))


def test_a_smolvlm_that_transformers_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMModel

    def config(image_size: int, patch_size: int, scale: int) -> Any:
        vision = SimpleNamespace(image_size=image_size, patch_size=patch_size)
        return SimpleNamespace(model_type="smolvlm", vision_config=vision, scale_factor=scale)

    def inputs_merger(self: Any, image_hidden_states: Any) -> Any:
        return image_hidden_states.view(-1, self.config.vision_config.patch_size)

    monkeypatch.setattr(SmolVLMModel, "inputs_merger", inputs_merger, raising=False)
    with pytest.raises(ValueError, match="cannot run a SmolVLM of 81 tokens an image and patches of 14"):
        refuse_broken(config(384, 14, 3))  # SmolVLM2-2.2B
    refuse_broken(config(512, 16, 4))  # SmolVLM2-500M
    refuse_broken(SimpleNamespace(model_type="llava"))
    monkeypatch.setattr(SmolVLMModel, "inputs_merger", lambda self: None)
    refuse_broken(config(384, 14, 3))
