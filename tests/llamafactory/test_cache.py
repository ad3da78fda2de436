"""A run with the reference cache is the run without it; the images of a pair are processed once."""

from __future__ import annotations

import weakref

import pytest

SAME = ("loss", "rewards/chosen", "rewards/margins", "aspo/weight_mean", "logps/rejected")


def assert_same(found, expected):
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        for name in SAME:
            if name in want:
                assert got[name] == pytest.approx(want[name], rel=2e-7, abs=2e-5), name


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_cached_run_is_the_live_run(train, tmp_path, kind, monkeypatch):
    from aspo_plugin.llamafactory import workflow

    options = {"finetuning_type": kind, "max_steps": 12, "learning_rate": 1e-4}
    live = train(**options)
    made = []
    monkeypatch.setattr(workflow, "create_ref_model", lambda *args: made.append(args))
    folder = tmp_path / "reference"
    first = train(**options, aspo_reference_cache=str(folder), output_dir=str(tmp_path / "first"))
    values = sorted((f.name, f.stat().st_size) for f in folder.glob("*.values"))
    second = train(**options, aspo_reference_cache=str(folder), output_dir=str(tmp_path / "second"))
    assert_same(first, live)
    assert_same(second, live)
    assert not made
    assert values == sorted((f.name, f.stat().st_size) for f in folder.glob("*.values"))


def test_a_reference_model_is_let_go_once_the_cache_is_filled(train, models, tmp_path, monkeypatch):
    from aspo_plugin.llamafactory import trainer, workflow

    made, alive = [], []
    create, step = workflow.create_ref_model, trainer.AspoTrainer.training_step

    def created(*args):
        model = create(*args)
        made.append(weakref.ref(model))
        return model

    def watched(self, *args, **options):
        alive.append(made[0]() is not None)
        return step(self, *args, **options)

    monkeypatch.setattr(workflow, "create_ref_model", created)
    monkeypatch.setattr(trainer.AspoTrainer, "training_step", watched)
    train(ref_model=str(models / "reference"), aspo_reference_cache=str(tmp_path / "cache"), max_steps=2)
    assert alive and not any(alive)


def test_a_cache_of_another_model_is_refused(train, models, tmp_path):
    folder = str(tmp_path / "reference")
    train(aspo_reference_cache=folder, output_dir=str(tmp_path / "first"))
    with pytest.raises(RuntimeError, match="was made with something else: model was"):
        train(aspo_reference_cache=folder, model_name_or_path=str(models / "reference"))


def test_full_training_resumes_with_its_cache(train, tmp_path):
    options = {
        "finetuning_type": "full", "learning_rate": 1e-4, "save_strategy": "steps", "save_steps": 2,
        "max_steps": 4, "overwrite_output_dir": False,
    }  # fmt: skip
    folder, out = str(tmp_path / "reference"), str(tmp_path / "out")
    train(**{**options, "max_steps": 2}, aspo_reference_cache=folder, output_dir=out)
    resumed = {"resume_from_checkpoint": f"{out}/checkpoint-2", "output_dir": out}
    cached = train(**options, aspo_reference_cache=folder, **resumed)
    assert_same(cached, train(**options, **resumed))
    with pytest.raises(RuntimeError, match="not complete for the training set"):
        train(**options, aspo_reference_cache=str(tmp_path / "other"), **resumed)


def test_images_are_processed_once(train, monkeypatch):
    from llamafactory.data import mm_plugin

    counts = []
    right = mm_plugin.BasePlugin._get_mm_inputs

    def counted(self, images, videos, audios, processor, imglens=None):
        counts.append(len(images))
        return right(self, images, videos, audios, processor, imglens)

    monkeypatch.setattr(mm_plugin.MMPluginMixin, "_get_mm_inputs", counted)
    train(per_device_train_batch_size=3, max_steps=2)
    assert len(counts) >= 2 and set(counts) == {3}
