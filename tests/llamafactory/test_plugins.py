"""Every batch of the host's plugins is trained as by its DPO: text, images, videos, sounds, and mixed."""

from __future__ import annotations

import inspect
import json
import math
import wave
from array import array
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.llamafactory.collator import processed_once
from tests.support import backbones
from tests.support.backbones.text import TRANSFORMERS_4
from tests.support.pairs import picture

from .conftest import LOGGED_DIGITS, Train, needs_template

# Architecture -> the host's template.
TEMPLATES = {
    "llava": "llava",
    "llava_next": "llava_next",
    "llava_next_mistral": "llava_next_mistral",
    "llava_next_video": "llava_next_video",
    "llava_onevision": "llava_next_qwen",
    "granite_vision": "granite3_vision",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl_nothink",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_nothink",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4_5v",
    "glm46v": "glm4_5v",
    "glm_ocr": "glm_ocr",
    "internvl": "intern_vl",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "mistral3": "mistral_small",
    "pixtral": "pixtral",
    "lfm2_vl": "lfm2_vl",
    "minicpm_v_4_6": "minicpm_v_4_6",
    "paligemma": "paligemma",
    "smolvlm": "smolvlm",
    "instructblip": "instructblip",
    "qwen2_audio": "qwen2_audio",
    "qwen2_5_omni": "qwen2_omni",
}
# With transformers 5.6 the host reads no video for GLM-4V and LLaVA-NeXT-Video, in any stage.
WITH_VIDEO = ("qwen2_vl", "qwen2_5", "qwen3", "internvl", "gemma4")
# Transformers 4 takes the type of such a config from its text part where it has one; published ones are flat.
NESTED = ("qwen2_vl", "qwen2_5_vl")
ONE_IMAGE = ("instructblip",)  # a prompt of this model has one


def known() -> list[str]:
    here = {*backbones.BUILDERS, *backbones.HEARS, *backbones.today()}
    return [name for name in TEMPLATES if name in here]


def bound(
    signature: inspect.Signature, seen: list[inspect.BoundArguments], *args: Any, **options: Any
) -> dict[str, Any]:
    """Stands in for a plugin's `_get_mm_inputs`: TypeError for what it does not take."""
    seen.append(signature.bind(None, *args, **options))
    return {"pixels": list(args[0])}


def test_plugins_are_called_as_the_host_calls_them() -> None:
    """With what each class takes, and nothing more: `imglens` is known to some, options to others."""
    from llamafactory.data.mm_plugin import PLUGINS

    with_lengths = 0
    for name, plugin in PLUGINS.items():
        signature = inspect.signature(plugin._get_mm_inputs)
        seen: list[inspect.BoundArguments] = []

        once = processed_once(partial(bound, signature, seen))
        image, other = object(), object()
        extra = list(signature.parameters)[5:]
        # Text alone (the host's blank image, or none), an image, another, a video and a sound.
        for media in (
            ([], [image]),
            ([image, image],),
            ([image, other],),
            ([], ["video"]),
            ([], [], ["sound"]),
        ):
            given = [*media, [], [], []][:3]
            assert once(*given, "processor")["pixels"] == given[0], name
        if "imglens" in extra:
            with_lengths += 1
            assert once([image, image], [], [], "processor", [1, 1])["pixels"] == [image, image]
            assert seen[-1].arguments["imglens"] == [1] and seen[-1].arguments["images"] == [image]
            assert once([image, other], [], [], "processor", [2, 0])["pixels"] == [image, other]
            assert seen[-1].arguments["imglens"] == [2, 0]
        for option in set(extra) - {"imglens"}:
            once([image, image], [], [], "processor", **{option: "given"})
            assert seen[-1].arguments["images"] == [image, image]
    assert with_lengths and len(PLUGINS) > 15


def test_images_of_a_pair_are_processed_once() -> None:
    calls = []

    def process(images: list[Any], *rest: Any) -> dict[str, Any]:
        calls.append(len(images))
        return {"pixels": list(images)}

    image, other = object(), object()
    assert processed_once(process)([image, other] * 2, [], [], None)["pixels"] == [image, other] * 2
    processed_once(process)([image, other, other, image], [], [], None)
    assert calls == [2, 4]


def sound(path: Path, pitch: int, seconds: float, rate: int = 16000) -> str:
    """A file with one tone."""
    times = [index / rate for index in range(int(seconds * rate))]
    samples = array("h", [int(9000 * math.sin(2 * math.pi * pitch * t)) for t in times])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return str(path)


def heard_without_torchcodec(path: str) -> tuple[Any, int]:
    """Stands in for `torchaudio.load`, which from 2.9 on needs torchcodec and FFmpeg's libraries."""
    import torch

    with wave.open(str(path), "rb") as file:
        assert file.getsampwidth() == 2
        samples = array("h", file.readframes(file.getnframes()))
        shape = (-1, file.getnchannels())
        return torch.tensor(samples).view(shape).T.float() / 2**15, file.getframerate()


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchaudio

    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError):
        monkeypatch.setattr(torchaudio, "load", heard_without_torchcodec)


def mixed_set(folder: Path, video: bool, several: bool) -> Path:
    """Six rows of one-sentence answers: text, an image, text, two images, a video (or an image), an image."""
    pictures = []
    for seed, size in enumerate([(64, 56), (56, 72), (64, 64), (72, 56)]):
        pictures.append(folder / f"{seed}.png")
        picture(seed, *size).save(pictures[-1])
    images, frames = list(map(str, pictures)), []
    for seed in range(4):
        frames.append(str(folder / f"frame-{seed}.png"))
        picture(10 + seed, 64, 64).save(frames[-1])

    def row(question: str, number: int, images: list[str], videos: list[list[str]]) -> dict[str, Any]:
        marks = "<image>" * len(images) + "<video>" * len(videos)
        answer = {"from": "gpt", "value": f"It shows {number} dogs on a white table"}
        other = {"from": "gpt", "value": "There is nothing"}
        turns = [{"from": "human", "value": marks + question}]
        made = {"conversations": turns, "chosen": answer, "rejected": other, "images": images}
        return {**made, "videos": videos} if video else made

    rows = [
        row("Who is it?", 1, [], []),
        row("What is it?", 2, images[:1], []),
        row("How many are there?", 3, [], []),
        row("Compare them.", 4, images[1:3] if several else images[1:2], []),
        row("What happens?", 5, images[:1] if not video else [], [frames] if video else []),
        row("Describe it.", 6, images[3:], []),
    ]
    (folder / "mixed.json").write_text(json.dumps(rows))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    entry = {"file_name": "mixed.json", "formatting": "sharegpt", "ranking": True}
    entry["columns"] = {**columns, "videos": "videos"} if video else columns
    (folder / "dataset_info.json").write_text(json.dumps({"mixed": entry}))
    return folder


def heard_set(folder: Path, sees: bool) -> Path:
    """Six rows: a sound, text, two sounds; where the model `sees`, an image with a sound, and a video."""
    sounds = [sound(folder / f"{n}.wav", 220 * (n + 1), 0.4 + 0.3 * n, 16000 + 8000 * n) for n in range(4)]
    picture(1, 64, 56).save(folder / "image.png")
    frames = []
    for seed in range(4):
        frames.append(str(folder / f"frame-{seed}.png"))
        picture(10 + seed, 64, 64).save(frames[-1])
    image = [str(folder / "image.png")] if sees else []

    def row(marks: str, number: int, audios: list[str], images: Any = (), videos: Any = ()) -> dict[str, Any]:
        answer = {"from": "gpt", "value": f"I hear {number} dogs on a white table"}
        turns = [{"from": "human", "value": marks + "What is it?"}]
        made = {
            "conversations": turns,
            "chosen": answer,
            "rejected": {"from": "gpt", "value": "There is nothing"},
        }
        seen = {"images": list(images), "videos": list(videos)} if sees else {}
        return {**made, "audios": audios, **seen}

    rows = [
        row("<audio>", 1, sounds[:1]),
        row("", 2, []),
        row("<audio><audio>", 3, sounds[1:3]),
        row("<image><audio>" if sees else "<audio>", 4, sounds[3:], image),
        row("<video>" if sees else "", 5, [], (), [frames] if sees else []),
        row("<audio>", 6, sounds[1:2]),
    ]
    (folder / "heard.json").write_text(json.dumps(rows))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "audios": "audios"}
    columns |= {"images": "images", "videos": "videos"} if sees else {}
    entry = {"file_name": "heard.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"mixed": entry}))
    return folder


def test_a_missing_decoder_stops_the_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not row after row that is left out: the sounds are fine."""
    import torchaudio

    def load(path: str) -> None:
        raise ImportError("TorchCodec is required for load_with_torchcodec.")

    monkeypatch.setattr(torchaudio, "load", load)
    model = backbones.build("qwen2_audio", tmp_path / "model")
    with pytest.raises(Exception, match="pip install torchcodec"):
        train(
            model_name_or_path=str(model),
            template="qwen2_audio",
            dataset_dir=str(heard_set(tmp_path, sees=False)),
            dataset="mixed",
            aspo_alpha=0,
        )


def test_each_sound_has_a_cached_reference_of_its_own(train: Train, tmp_path: Path, ears: None) -> None:
    """Two rows of the same tokens and different sounds: a policy that never moves stays at its reference."""
    folder = heard_set(tmp_path, sees=False)
    rows = json.loads((folder / "heard.json").read_text())
    other = sound(folder / "other.wav", 880, 0.4, 16000)  # as long as the first, so of the same tokens
    (folder / "heard.json").write_text(json.dumps([rows[0], {**rows[0], "audios": [other]}]))
    steps = train(
        model_name_or_path=str(backbones.build("qwen2_audio", tmp_path / "model")),
        template="qwen2_audio",
        dataset_dir=str(folder),
        dataset="mixed",
        aspo_alpha=0,
        aspo_reference_cache=str(tmp_path / "reference"),
        per_device_train_batch_size=1,
        max_steps=2,
        learning_rate=0.0,
    )
    assert steps[0]["logps/chosen"] != steps[1]["logps/chosen"]
    for step in steps:
        assert abs(step["rewards/chosen"]) < 1e-5 and abs(step["rewards/rejected"]) < 1e-5


@pytest.mark.parametrize("architecture", known())
def test_mixed_sets_train_as_by_the_hosts_dpo(
    architecture: str, train: Train, tmp_path: Path, ears: None
) -> None:
    """Batches of one row, so that some are text alone: the same log-probs, losses and gradients."""
    needs_template(TEMPLATES[architecture])
    model = backbones.build(architecture, tmp_path / "model")
    video = architecture.startswith(WITH_VIDEO)
    if architecture in backbones.HEARS:
        folder = heard_set(tmp_path, sees=video)
    else:
        folder = mixed_set(tmp_path, video, architecture not in ONE_IMAGE)
    common = {
        "model_name_or_path": str(model),
        "template": TEMPLATES[architecture],
        "dataset_dir": str(folder),
        "dataset": "mixed",
        "cutoff_len": 4096,
        "video_maxlen": 4,
        "per_device_train_batch_size": 1,
        "max_steps": 6,
        "disable_shuffling": True,
        "lora_target": "q_proj,v_proj" if TRANSFORMERS_4 and architecture in NESTED else "all",
    }
    if TRANSFORMERS_4 and architecture == "paligemma":
        with pytest.raises(ValueError, match="PaliGemma's tokens see the rest of their answer"):
            train(**common, aspo_alpha=0)
        return
    dpo = train(**common, stage="dpo", output_dir=str(tmp_path / "dpo"))
    aspo = train(**common, aspo_alpha=0, output_dir=str(tmp_path / "aspo"))
    assert not (tmp_path / "aspo" / "aspo_rejected.jsonl").exists()
    assert len(dpo) == len(aspo) == 6
    for ours, theirs in zip(aspo, dpo, strict=True):
        # Sums of log-probs are rounded: float32 on sums of a few hundred.
        rounding = 1e-7 * (abs(theirs["logps/chosen"]) + abs(theirs["logps/rejected"])) + 2 * LOGGED_DIGITS
        for key in ("loss", "rewards/chosen", "rewards/rejected"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=rounding), (ours["step"], key)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=5e-4), ours["step"]
        for key in ("logps/chosen", "logps/rejected"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), (ours["step"], key)
    assert abs(dpo[-1]["loss"] - dpo[0]["loss"]) > 1e-5
