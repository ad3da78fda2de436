"""Step time and peak memory of ASPO against the hosts' own DPO, interleaved in one process per host.

    python -m benchmarks.training                      all hosts that are installed, CPU, small shapes
    python -m benchmarks.training --device cuda --real 7B shapes in bfloat16
    python -m benchmarks.training --host trl --repeats 3 --only "llava P=640 R=125"

A step is forward and backward of policy and reference for one batch, on the same model and batch: for the
hosts the loss function of their own trainer, for ASPO what its adapters call. Time on a CPU: float32 models
of the proportions of 7B, in processor time of one thread. Memory: always at 7B shapes, in bfloat16 with
gradient checkpointing, on a CPU counted with fake tensors (`training_memory`). Writes
docs/performance/<device>-<host>.json, and table and picture from all such files.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "performance"
HOSTS = {
    "llamafactory": ROOT / ".venv/llamafactory",
    "axolotl": ROOT / ".venv/axolotl",
    "trl": ROOT / ".venv/trl-1.16",
}
WAYS = ("host", "aspo", "aspo, cached reference")


def settings() -> list[Any]:
    from benchmarks.training_models import VOCABULARY, Setting

    lines = [
        ("llava", 640, 125, 1, 32),
        ("qwen2_5_vl", 460, 125, 1, 152),
        ("llava", 640, 640, 1, 32),
        ("qwen2_5_vl", 460, 460, 1, 152),
        ("llava", 640, 300, 1, 32),
        ("llava", 640, 125, 1, 152),
        ("llava", 640, 125, 2, 32),
        ("llava", 1280, 125, 1, 32),
        ("qwen2_5_vl", 960, 125, 1, 152),
    ]
    sizes = {32: VOCABULARY["llava"], 152: VOCABULARY["qwen2_5_vl"]}
    return [Setting(m, p, r, b, sizes[v]) for m, p, r, b, v in lines]


def token_limit(setting: Any) -> tuple[float, float]:
    """What counting tokens allows, with a live and with a cached reference (3 of the 4 forwards' worth)."""
    live = (setting.prompt + 2 * setting.response) / (2 * setting.prompt + 2 * setting.response)
    return live, live * 0.75


# --- one step of each way ------------------------------------------------------------------------------


def llamafactory_step(model: Any, folder: str) -> Callable[[dict[str, Any]], Any]:
    if importlib.util.find_spec("av") is None:  # for videos, of which there are none here
        sys.modules["av"] = types.ModuleType("av")
    from llamafactory.hparams import FinetuningArguments
    from llamafactory.train.dpo.trainer import CustomDPOTrainer
    from transformers import TrainingArguments

    trainer = CustomDPOTrainer(
        model=model,
        ref_model=None,
        finetuning_args=FinetuningArguments(stage="dpo", finetuning_type="lora"),
        processor=None,
        args=TrainingArguments(
            folder, report_to="none", use_cpu=next(model.parameters()).device.type == "cpu"
        ),
        data_collator=lambda rows: rows,
        tokenizer=None,
        train_dataset=[0],
    )
    return lambda batch: trainer.get_batch_loss_metrics(model, dict(batch))[0]


def trl_step(model: Any, folder: str) -> Callable[[dict[str, Any]], Any]:
    from trl import DPOConfig, DPOTrainer
    from trl.trainer import utils

    if hasattr(utils, "_use_triton"):
        # The fused output layer, from 1.15 on, takes trained positions alone on a GPU: let it do so here.
        utils._use_triton = lambda device: True
    return _trl_loss(DPOTrainer, DPOConfig, model, folder)


def axolotl_step(model: Any, folder: str) -> Callable[[dict[str, Any]], Any]:
    """Its DPO on images, from 0.21 on: the loss of the TRL that it pins."""
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer

    return _trl_loss(AxolotlDPOTrainer, AxolotlDPOConfig, model, folder)


def _trl_loss(trainer_class: Any, config_class: Any, model: Any, folder: str) -> Callable[[Any], Any]:
    from datasets import Dataset

    from tests.support.tokenizers import tokenizer

    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    cpu = next(model.parameters()).device.type == "cpu"
    trainer = trainer_class(
        model=model,
        args=config_class(folder, report_to="none", use_cpu=cpu, bf16=False, gradient_checkpointing=False),
        train_dataset=rows,
        processing_class=tokenizer("byte_level"),
    )

    def step(batch: dict[str, Any]) -> Any:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "position_ids")}
        inputs["completion_mask"] = (batch["labels"] != -100).long()
        return trainer._compute_loss(model, inputs, False)

    return step


def aspo_step(model: Any, folder: str, cached: bool) -> Callable[[dict[str, Any]], Any]:
    import torch

    from aspo_plugin.logprobs.pair_batch import images_once
    from aspo_plugin.logprobs.response import ResponseLogProbs
    from aspo_plugin.method.loss import aspo_loss
    from aspo_plugin.method.metrics import AspoMetrics
    from aspo_plugin.reference_cache.keys import media_digest, row_keys
    from aspo_plugin.reference_cache.store import ReferenceCache
    from aspo_plugin.training.reference_pass import adapter_off, checkpointing_off

    logps, metrics = ResponseLogProbs(shared_prefix="true", self_check=False), AspoMetrics()
    cache = ReferenceCache.open(f"{folder}/cache", {}) if cached else None
    collated: dict[str, Any] = {}

    def step(batch: dict[str, Any]) -> Any:
        mask = batch["labels"] != -100
        inputs, keys = collated["inputs"], collated["keys"] if cached else []
        reference = None if cache is None else cache.lookup(keys, mask)
        if reference is None:
            with torch.no_grad(), checkpointing_off(model), adapter_off(model):
                reference = logps(model, inputs, mask, again=cache is None)
            if cache is not None:
                cache.store(keys, reference, mask)
        policy = logps(model, inputs, mask)
        output = aspo_loss(
            *policy.chunk(2), *reference.chunk(2), collated["sentences"], collated["similarity"],
            beta=0.1, alpha=0.5, normalization="weight",
        )  # fmt: skip
        metrics.update(output)
        return output.losses.mean()

    def prepare(batch: dict[str, Any]) -> None:
        """The collator's work, in loader processes and before the copy to a GPU: not a part of the step."""
        mask = batch["labels"] != -100
        pairs = len(mask) // 2
        tensors = [x.cpu() for x in (batch["input_ids"], batch["attention_mask"], mask)]
        first = mask[:pairs].long().argmax(1, keepdim=True)
        columns = torch.arange(mask.shape[1], device=mask.device)
        similarity = torch.linspace(0.2, 0.3, int(mask[:pairs].sum(1).max()) // 25 + 1, device=mask.device)
        collated.update(
            inputs=images_once({key: value for key, value in batch.items() if key != "labels"}),
            keys=row_keys(*tensors, [media_digest()] * len(mask)),
            sentences=torch.where(mask[:pairs], (columns - first) // 25, -1),
            similarity=similarity.expand(pairs, -1),
        )

    step.prepare = prepare  # type: ignore[attr-defined]
    return step


STEPS = {"llamafactory": llamafactory_step, "axolotl": axolotl_step, "trl": trl_step}


# --- measuring -----------------------------------------------------------------------------------------


def measure(host: str, setting: Any, device: str, real: bool, repeats: int) -> dict[str, Any]:
    """Medians over `repeats` rounds in which each way takes its turn, and the peak of one step of each."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.bfloat16 if real else torch.float32
        model, batch, steps = _prepare(host, setting, device, "7B" if real else "small", dtype, folder)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(repeats + 1):
            for way in WAYS if turn % 2 else reversed(WAYS):
                seconds = _timed(model, steps[way], batch, device)
                if turn:  # the first round warms up, probes the head and fills the cache
                    times[way].append(seconds)
        del model, batch, steps
    gc.collect()
    peaks = _peaks(host, setting, device)
    live, cached = token_limit(setting)
    import transformers

    return {
        "setting": str(setting),
        "date": date.today().isoformat(),
        "device": machine(device),
        "shapes": {"time": "7B" if real else "small, 7B proportions", "memory": "7B"},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            host: _version(host),
            **({"trl": _version("trl")} if host == "axolotl" else {}),
        },
        "token limit": round(live, 3),
        "token limit, cached": round(cached, 3),
        "seconds": {way: round(statistics.median(values), 4) for way, values in times.items()},
        "spread": {way: [round(min(v), 4), round(max(v), 4)] for way, v in times.items()},
        "peak MiB": {way: round(value / 2**20, 1) for way, value in peaks.items()},
    }


def _prepare(host: str, setting: Any, device: str, shape: str, dtype: Any, folder: str) -> Any:
    from benchmarks import training_models

    model = training_models.build(setting, shape, dtype, device)
    batch = training_models.batch(model, setting, device, dtype)
    make = STEPS[host]
    steps = {
        "host": make(model, folder),
        "aspo": aspo_step(model, folder, cached=False),
        "aspo, cached reference": aspo_step(model, folder, cached=True),
    }
    for way in WAYS[1:]:
        steps[way].prepare(batch)  # type: ignore[attr-defined]
    model.train()
    return model, batch, steps


def _timed(model: Any, step: Any, batch: dict[str, Any], device: str) -> float:
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    # On one thread of a shared machine the processor's time is the step's; the clock's is the neighbours'.
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    step(batch).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    model.zero_grad()
    return seconds


def _peaks(host: str, setting: Any, device: str) -> dict[str, int]:
    """Of the host's and of ASPO's step with a live reference; a cached one only takes a smaller pass away."""
    make = STEPS[host]
    makers = {"host": make, "aspo": functools.partial(aspo_step, cached=False)}
    from benchmarks.training_memory import peaks

    return peaks(setting, makers, device)


def machine(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()}, 1 thread"


def run_host(host: str, options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    path = OUT / f"{options.device}-{host}.json"
    kept = json.loads(path.read_text())["results"] if path.exists() else []
    OUT.mkdir(parents=True, exist_ok=True)
    for setting in settings():
        if options.only and options.only not in str(setting):
            continue
        result = measure(host, setting, options.device, options.real, options.repeats)
        print(json.dumps(result), file=sys.stderr, flush=True)
        kept = [other for other in kept if _line(host, other) != _line(host, result)] + [result]
        path.write_text(json.dumps({"host": host, "results": kept}, indent=1) + "\n")
        gc.collect()


def _line(host: str, result: dict[str, Any]) -> tuple[str, str]:
    """What a new measurement takes the place of: the same setting in the same version of the host."""
    return result["setting"], result["versions"][host]


def _version(host: str) -> str:
    from importlib.metadata import version

    return version(host)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--host", choices=[*HOSTS], help="one host, in this environment; default: all installed"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--real", action="store_true", help="7B shapes in bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="settings whose line contains this")
    parser.add_argument("--report", action="store_true", help="table and picture from the kept numbers alone")
    options = parser.parse_args()
    if options.host:
        run_host(options.host, options)
        return
    if not options.report:
        for host, environment in HOSTS.items():
            if (environment / "bin/python").exists():
                command = [str(environment / "bin/python"), "-m", "benchmarks.training", "--host", host]
                subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, check=True, env=os.environ)
    from benchmarks.training_report import report

    print(report(OUT))


if __name__ == "__main__":
    main()
