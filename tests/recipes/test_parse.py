"""Every recipe and shared file through the host's own parser, as written; every key commented."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import catalog, hosts
from .catalog import RECIPES, ROOT, Recipe

HOST = hosts.installed_host()
ALL = catalog.all_recipes()


def test_every_backbone_has_a_recipe_for_each_host() -> None:
    models = {host: {recipe.model for recipe in ALL if recipe.host == host} for host in catalog.HOSTS}
    assert models["axolotl"] == set(catalog.TINY)
    assert models["llamafactory"] == models["axolotl"] - catalog.AXOLOTL_ALONE.keys()
    assert len(ALL) >= 40


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_every_key_is_commented(recipe: Recipe) -> None:
    lines = recipe.path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#", "-")):
            assert lines[number - 1].startswith("# "), f"{recipe.name}:{number + 1} {line}"


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_the_header_names_the_file(recipe: Recipe) -> None:
    head = recipe.path.read_text().split("\n\n")[0]
    assert f"recipes/{recipe.name}" in head and "aspo-plan" in head


def parse_llamafactory(values: dict[str, Any]) -> tuple[Any, ...]:
    """The host's parser and its checks, without the part that wants a distributed launch."""
    from llamafactory.hparams.parser import _parse_train_args

    return _parse_train_args(values)


@pytest.mark.skipif(HOST != "llamafactory", reason="needs LLaMA-Factory")
@pytest.mark.parametrize("recipe", catalog.recipes_of("llamafactory"), ids=lambda recipe: recipe.name)
def test_llamafactory_takes_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    from llamafactory.data.template import TEMPLATES

    values = {**recipe.values, "output_dir": str(tmp_path), "bf16": False}
    values.pop("deepspeed", None)
    model, data, training, method, _ = parse_llamafactory(values)
    assert data.template in TEMPLATES
    assert (method.aspo_alpha, method.aspo_normalization, method.pref_beta) == (0.5, "weight", 0.1)
    assert method.to_dict()["stage"] == "aspo" and method.is_aspo
    assert model.model_name_or_path == recipe.model


@pytest.mark.skipif(HOST != "llamafactory", reason="needs LLaMA-Factory")
@pytest.mark.parametrize(
    "file", sorted(path.name for path in (RECIPES / "shared/llamafactory").glob("*-*.args"))
)
def test_llamafactory_takes_the_shared_file(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamafactory.hparams.parser import read_args

    words = (RECIPES / "shared/llamafactory" / file).read_text().split()
    recipe = RECIPES / "llamafactory" / "llava-1.5-7b.yaml"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", str(recipe), *words])
    values = read_args()
    assert isinstance(values, dict)
    for word in words:
        key, value = word.split("=", 1)
        assert key in values, key
        if not value.startswith("["):
            assert str(values[key]) == str(yaml.safe_load(value)), (key, values[key])
    config = Path(values.get("deepspeed") or values["fsdp_config"])
    assert json.loads(config.read_text())
    # The rest through the parser; sharding itself starts only under torchrun.
    for key in ("deepspeed", "fsdp", "fsdp_config"):
        values.pop(key, None)
    *_, method, _ = parse_llamafactory({**values, "bf16": False, "output_dir": str(tmp_path)})
    assert method.is_aspo


def validate_axolotl(values: dict[str, Any]) -> Any:
    """Axolotl's plugins and validation, on a machine that has 8 H100 GPUs."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault(values)
    prepare_plugins(cfg)
    machine = {"bf16": True, "fp8": True, "tf32": True, "n_gpu": 8, "compute_capability": "sm_90"}
    return validate_config(cfg, capabilities=machine, env_capabilities={"torch_version": "2.12.1"})


@pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")
@pytest.mark.parametrize("recipe", catalog.recipes_of("axolotl"), ids=lambda recipe: recipe.name)
def test_axolotl_takes_the_recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = validate_axolotl(dict(recipe.values))
    assert cfg.aspo["alpha"] == 0.5 and cfg.rl_beta == 0.1
    for key in recipe.values.keys() - {"rl", "aspo", "deepspeed"}:
        assert cfg[key] == recipe.values[key] or str(cfg[key]) == str(recipe.values[key]) or cfg[key], key


@pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")
@pytest.mark.parametrize("file", sorted(path.name for path in (RECIPES / "shared/axolotl").glob("*.yaml")))
def test_axolotl_takes_the_sweep_file(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the host's own reading of `--sweep`; each key of each run is checked."""
    from axolotl.cli.utils.train import generate_config_files

    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load((RECIPES / "shared/axolotl" / file).read_text())
    recipe = RECIPES / "axolotl" / "llava-1.5-7b.yaml"
    files = list(generate_config_files(str(recipe), str(RECIPES / "shared/axolotl" / file)))
    assert len(files) == max(len(values) for values in sweep.values())
    for path, _ in files:
        values = yaml.safe_load(Path(path).read_text())
        os.unlink(path)
        for key, choices in sweep.items():
            assert values[key] in choices, key
        cfg = validate_axolotl(values)
        assert cfg.aspo["alpha"] in (0.0, 0.5, 1.0)
        if "full" in file:
            assert not cfg.adapter
        if "fsdp2" in file:
            assert str(cfg.fsdp_version) == "2" and cfg.fsdp_config.reshard_after_forward is True


@pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")
@pytest.mark.parametrize("name", sorted(catalog.TINY))
def test_full_zero3_trains_the_language_model_of_each_backbone(name: str) -> None:
    """Axolotl's own reading of `unfrozen_parameters` (a dot is a dot), on the names of the real model."""
    from axolotl.utils.freeze import LayerNamePattern

    from aspo_plugin.plan.model import PROJECTOR, TOWERS, config_of, empty_model

    sweep = yaml.safe_load((RECIPES / "shared/axolotl/full-zero3.yaml").read_text())
    patterns = [LayerNamePattern(pattern) for pattern in sweep["unfrozen_parameters"][0]]
    names = [name for name, _ in empty_model(config_of(name)).named_parameters()]
    trained = {name for name in names if any(pattern.match(name) for pattern in patterns)}
    assert trained == {name for name in names if not any(part in name for part in (*TOWERS, *PROJECTOR))}
    assert any("layers.3.self_attn.q_proj" in name for name in trained) and trained < set(names)
