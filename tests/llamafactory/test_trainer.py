"""What the trainer hands on in a run, and what it keeps from changing: gradients, dropout, digits, keys."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_plugin.reference_cache.keys import KEYS
from aspo_plugin.training.reference import Live


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The trainers of the runs that follow, their metrics, reference log-probs and prepared inputs."""
    from aspo_plugin.llamafactory.trainer import AspoTrainer

    calls: dict[str, list[Any]] = {}

    def keep(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def kept(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            calls.setdefault(name, []).append(result)
            if owner is AspoTrainer:
                calls.setdefault("trainer", []).append(self)
            return result

        monkeypatch.setattr(owner, name, kept)

    keep(AspoTrainer, "get_batch_loss_metrics")
    keep(Live, "logps")
    return calls


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_only_the_loss_holds_a_graph(kind: str, train: Any, seen: dict[str, list[Any]]) -> None:
    """A metric or a reference with one would keep a batch's activations until the next logging step."""
    train(finetuning_type=kind)
    assert all(loss.requires_grad for loss, _ in seen["get_batch_loss_metrics"])
    kept = [value for _, metrics in seen["get_batch_loss_metrics"] for value in metrics.values()]
    assert kept and not any(torch.is_tensor(value) and value.requires_grad for value in kept)
    assert seen["logps"] and not any(logps.requires_grad for logps in seen["logps"])


@pytest.mark.parametrize(("setting", "share"), [(None, 1.0), ("auto", 1.0), ("true", 1.0), ("false", 0.0)])
def test_the_shared_prefix_is_taken_where_it_is_asked_for(setting: Any, share: float, train: Any) -> None:
    assert [entry["aspo/shared_prefix_share"] for entry in train(aspo_shared_prefix=setting)] == [share] * 2


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_start_away_from_the_reference_stops(
    kind: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an adapter does that rewrites the base, or new weights drawn at random."""
    from aspo_plugin.llamafactory import workflow
    from aspo_plugin.training.first_step import FirstStepError

    load = workflow.load_model

    def moved(*args: Any) -> Any:
        model = load(*args)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or kind == "full" and "lm_head" in name:
                    parameter += 0.3 * torch.randn_like(parameter)
        return model

    monkeypatch.setattr(workflow, "load_model", moved)
    with pytest.raises(FirstStepError, match=r"differ by .* per token.*`ref_model`"):
        train(finetuning_type=kind)


def test_an_adapter_that_is_trained_further_trains(train: Any, tmp_path: Path) -> None:
    """As in the host's DPO: away from the reference, which is the model without it."""
    train(stage="dpo", output_dir=str(tmp_path / "adapter"), learning_rate=0.01)
    common = {"adapter_name_or_path": str(tmp_path / "adapter"), "dataset": "one", "max_steps": 1}
    dpo = train(**common, stage="dpo", output_dir=str(tmp_path / "dpo"))
    aspo = train(**common, output_dir=str(tmp_path / "aspo"))
    assert abs(dpo[0]["rewards/margins"]) > 1e-3
    assert aspo[0]["loss"] == pytest.approx(dpo[0]["loss"], rel=1e-5)


def test_noise_on_the_embeddings_goes_the_plain_way(train: Any) -> None:
    """NEFTune draws anew in every forward, so that no path could be checked against another."""
    plain, noisy = train(), train(neftune_noise_alpha=50, overwrite_output_dir=True)
    assert [entry["aspo/shared_prefix_share"] for entry in noisy] == [0.0] * 2
    assert noisy[0]["logps/chosen"] != pytest.approx(plain[0]["logps/chosen"], rel=1e-4)


def test_no_dropout_is_left_in_the_policy(
    train: Any, seen: dict[str, list[Any]], models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "dropping"
    shutil.copytree(models / "llava", folder)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    train(model_name_or_path=str(folder), max_steps=1)
    modules = list(seen["trainer"][0].model.modules())
    assert any(hasattr(module, "attention_dropout") for module in modules)
    assert not any(getattr(module, "attention_dropout", 0) for module in modules)


def test_similarities_keep_their_digits_under_deepspeed(
    train: Any, seen: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(max_steps=1)
    trainer = seen["trainer"][0]
    from transformers import Trainer

    def cast(self: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in inputs.items()
        }

    monkeypatch.setattr(Trainer, "_prepare_inputs", cast)
    batch = next(iter(trainer.get_train_dataloader()))
    given = batch["similarity"].clone()
    prepared = trainer._prepare_inputs(batch)
    assert torch.equal(prepared["similarity"].nan_to_num(), given.nan_to_num())
    assert prepared["pixel_values"].dtype == torch.bfloat16


def test_pictures_are_part_of_the_key_of_cached_log_probs(
    train: Any, seen: dict[str, list[Any]], tmp_path: Path
) -> None:
    """The same texts about another picture have other log-probs."""
    train(max_steps=1, aspo_reference_cache=str(tmp_path / "reference"))
    trainer = seen["trainer"][0]
    rows = [dict(trainer.train_dataset[i]) for i in range(2)]
    assert rows[0]["images"] != rows[1]["images"]
    keys = [
        trainer.data_collator([dict(row)])[KEYS]
        for row in (rows[0], {**rows[0], "images": rows[1]["images"]})
    ]
    assert len({*keys[0], *keys[1]}) == 4
    assert trainer.data_collator([dict(rows[0])])[KEYS] == keys[0]


class FrozenProcessor:
    """A processor of sounds alone."""

    def __init__(self, mels: int) -> None:
        self.feature_extractor = {"feature_size": mels}


def fingerprint(models: Path, **changes: Any) -> dict[str, str]:
    from aspo_plugin.llamafactory.reference_fingerprint import reference_fingerprint

    values: dict[str, Any] = {
        "model_name_or_path": str(models / "llava"),
        "adapter_name_or_path": None,
        "create_new_adapter": False,
        "model_revision": "main",
        "quantization_bit": None,
        "quantization_method": "bnb",
        "quantization_type": "nf4",
        "double_quantization": True,
        "compute_dtype": torch.float32,
        "rope_scaling": None,
        "cache_dir": None,
        "image_max_pixels": 1000,
        "video_fps": 2.0,
        "audio_sampling_rate": 16000,
        "template": "llava",
        "bf16": False,
        "fp16": False,
        "ref_model": None,
        "ref_model_adapters": None,
        "ref_model_quantization_bit": None,
        **changes,
    }
    processor = values.pop("processor", None)
    args = Namespace(**values)
    return reference_fingerprint(args, args, args, args, {"processor": processor})


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"model_name_or_path": "reference"}, {"model"}),
        ({"ref_model": "reference"}, {"model"}),
        # One that is trained further is off in the reference, and one that is merged is part of it.
        ({"adapter_name_or_path": ["adapter"]}, set()),
        ({"adapter_name_or_path": ["adapter"], "create_new_adapter": True}, {"adapter"}),
        ({"adapter_name_or_path": ["adapter", "other"]}, {"adapter"}),
        ({"ref_model": "llava", "ref_model_adapters": "adapter"}, {"adapter"}),
        ({"quantization_bit": 4}, {"quantisation"}),
        ({"ref_model": "llava", "ref_model_quantization_bit": 8}, {"quantisation"}),
        ({"quantization_type": "fp4"}, set()),
        ({"compute_dtype": torch.bfloat16}, {"dtype"}),
        ({"bf16": True}, {"dtype"}),
        ({"fp16": True}, {"dtype"}),
        ({"rope_scaling": "linear"}, {"rope_scaling"}),
        ({"template": "vicuna"}, {"template"}),
        ({"image_max_pixels": 2000}, {"images, videos and audio"}),
        ({"video_fps": 4.0}, {"images, videos and audio"}),
        ({"audio_sampling_rate": 8000}, {"images, videos and audio"}),
        ({"processor": FrozenProcessor(40)}, {"images, videos and audio"}),
        # What the policy trains on does not count where the reference is a model of its own.
        ({"ref_model": "llava", "adapter_name_or_path": ["adapter"], "quantization_bit": 4}, set()),
    ],
    ids=str,
)
def test_all_that_the_reference_depends_on_is_in_its_fingerprint(
    changes: dict[str, Any], differs: set[str], models: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    (tmp_path / "adapter").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "adapter" / "adapter_model.safetensors")

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(item) for item in value]
        known = {
            "adapter": tmp_path / "adapter",
            "reference": models / "reference",
            "llava": models / "llava",
        }
        return str(known[value]) if isinstance(value, str) and value in known else value

    placed = {key: value if key == "template" else place(value) for key, value in changes.items()}
    before, after = fingerprint(models), fingerprint(models, **placed)
    assert {key for key in before if before[key] != after[key]} == differs


def test_how_bits_are_spent_is_in_the_fingerprint(models: Path) -> None:
    kinds = [
        {},
        {"quantization_type": "fp4"},
        {"double_quantization": False},
        {"quantization_method": "hqq"},
    ]
    marks = {fingerprint(models, quantization_bit=4, **kind)["quantisation"] for kind in kinds}
    assert len(marks) == len(kinds)
