"""Stages of `benchmarks.gpu_check` that train: whole steps of a host's DPO and of ASPO, side by side.

As recipes train: bfloat16 weights, LoRA in float32 under autocast, gradient checkpointing. In each round
every way takes one step on a batch of its own size; times are medians, per pair.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import training
from benchmarks.gpu_check import Run
from benchmarks.training_models import VOCABULARY, Setting, batch, build

Step = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Way:
    """One way to take a step. `pairs`: in one forward. `kernel`: whether the flash kernel may run."""

    name: str
    pairs: int
    kernel: bool = True
    cached: bool = False
    host: bool = False


def ways(packed: int) -> list[Way]:
    """`packed`: pairs of the ways that pack, and of the host beside them."""
    return [
        Way("host, 1 pair", 1, host=True),
        Way(f"host, {packed} pairs", packed, host=True),
        Way("aspo, dense mask, 1 pair", 1, kernel=False),
        Way("aspo, flash, 1 pair", 1),
        Way(f"aspo, flash, packed {packed}", packed),
        Way(f"aspo, flash, packed {packed}, cached reference", packed, cached=True),
    ]


def llava_trl(run: Run) -> None:
    _stage(run, "trl", "llava", [(640, 125, 4), (1280, 300, 4)])


def qwen_trl(run: Run) -> None:
    _stage(run, "trl", "qwen2_5_vl", [(460, 125, 4), (1280, 300, 4)])


def llava_llamafactory(run: Run) -> None:
    _stage(run, "llamafactory", "llava", [(640, 125, 4)])


def qwen_llamafactory(run: Run) -> None:
    _stage(run, "llamafactory", "qwen2_5_vl", [(460, 125, 4)])


def long_prompts(run: Run) -> None:
    _stage(run, "trl", "llava", [(4096, 512, 2), (8192, 1024, 1)])


def liger_trl(run: Run) -> None:
    """The same steps with Liger's norms, rotary positions and SwiGLU in the model: what they gain the host
    and ASPO, and whether the self-check holds beside them."""
    _stage(run, "trl", "llava", [(640, 125, 4)], liger=True)


def _stage(run: Run, host: str, kind: str, lengths: list[tuple[int, int, int]], liger: bool = False) -> None:
    missing = _missing(host) or liger and _missing_liger(run)
    if missing:
        run.record(skipped=missing)
        return
    if run.tiny:
        lengths = [(100, 12, 2)]
    first = Setting(kind, lengths[0][0], lengths[0][1], 1, VOCABULARY[kind])
    dtype = torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        model = build(first, "tiny" if run.tiny else "7B", dtype, run.device)
        if liger:
            from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

            _apply_liger_kernel_to_instance(model.get_base_model(), fused_linear_cross_entropy=False)
        bench = _Bench(run, host, model, folder)
        for number, (prompt, response, packed) in enumerate(lengths):
            setting = replace(first, prompt=prompt, response=response)
            bench.measure(setting, ways(packed))
            if number == 0:
                bench.self_check(replace(setting, pairs=packed))
        bench.profile(first, ways(lengths[0][2]))  # last: reading what it saw takes seconds a way


def _missing(host: str) -> str:
    """Why this host's steps cannot be taken here, or ""."""
    try:
        version = importlib.metadata.version(host)
    except importlib.metadata.PackageNotFoundError:
        return f"{host} is not installed here"
    if host == "trl" and int(version.split(".")[0]) < 1:
        return f"TRL {version} is older than 1.0"
    return ""


def _missing_liger(run: Run) -> str:
    if run.device != "cuda":
        return "Liger's kernels need a GPU"
    return "" if importlib.util.find_spec("liger_kernel") else "liger-kernel is not installed here"


class _Bench:
    """One model, one host: steps of every way, on the same weights."""

    def __init__(self, run: Run, host: str, model: Any, folder: str) -> None:
        self.run, self.host, self.model, self.folder = run, host, model, folder
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        own = model.forward
        make = training.STEPS[host]
        self.host_step = make(model, folder)  # TRL's trainer may change the model's forward
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        self.forwards = {"host": self._prepared(model.forward), "aspo": self._prepared(own)}
        self.versions = {"host": host, "version": importlib.metadata.version(host)}

    def _prepared(self, forward: Any) -> Any:
        """What accelerate's `prepare_model` does for `bf16: true`."""
        from accelerate.utils import convert_outputs_to_fp32

        return convert_outputs_to_fp32(torch.autocast(self.run.device, torch.bfloat16)(forward))

    def measure(self, setting: Setting, ways: list[Way]) -> None:
        batches = {n: self._batch(replace(setting, pairs=n)) for n in sorted({way.pairs for way in ways})}
        # The host comes first: ASPO's ways change what PEFT does with the adapters' inputs.
        steps = {way.name: self._step(way, batches[way.pairs]) for way in ways}
        seconds: dict[str, list[float]] = {way.name: [] for way in ways}
        peaks: dict[str, float] = {}
        failed: dict[str, str] = {}
        for turn in range(2 if self.run.tiny else 4):
            for way in ways:
                if way.name in failed:
                    continue
                try:
                    taken, peak = self._take(way, steps[way.name], batches[way.pairs])
                except torch.OutOfMemoryError:
                    failed[way.name] = "out of memory"
                    gc.collect()
                    torch.cuda.empty_cache()
                    continue
                if turn:  # the first round warms up, looks at the output layer and fills the cache
                    seconds[way.name].append(taken / way.pairs)
                    peaks[way.name] = peak
        per_pair = {name: statistics.median(values) for name, values in seconds.items() if values}
        self.run.record(
            **self.versions, setting=f"{setting.model} P={setting.prompt} R={setting.response}",
            **{
                "seconds a pair": {name: round(value, 5) for name, value in per_pair.items()},
                "of the host's": _ratios(per_pair, ways),
                "peak MiB over the weights": {name: round(value, 1) for name, value in peaks.items()},
                "failed": failed,
            },
        )  # fmt: skip

    def profile(self, setting: Setting, ways: list[Way]) -> None:
        for way in ways:
            given = self._batch(replace(setting, pairs=way.pairs))
            step = self._step(way, given)
            try:
                self._take(way, step, given)
                self.run.record(profile=way.name, **self._profile(way, step, given))
            except torch.OutOfMemoryError:
                gc.collect()
                torch.cuda.empty_cache()

    def _batch(self, setting: Setting) -> dict[str, Any]:
        return batch(self.model, setting, self.run.device, torch.bfloat16)

    def _step(self, way: Way, given: dict[str, Any]) -> Step:
        if way.host:
            return self.host_step
        step = training.aspo_step(self.model, f"{self.folder}/{way.name}".replace(" ", "_"), way.cached)
        step.prepare(given)  # type: ignore[attr-defined]
        return step

    def _take(self, way: Way, step: Step, given: dict[str, Any]) -> tuple[float, float]:
        """Seconds of a step, and its peak of memory over what was there before, in MiB."""
        from aspo_plugin.training.adapters import keep_input_dtype

        self.model.forward = self.forwards["host" if way.host else "aspo"]
        for module in self.model.modules():
            module.__dict__.pop("_cast_input_dtype", None)
        if not way.host:
            keep_input_dtype(self.model)
        cuda = self.run.device == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else 0
        with nullcontext() if way.kernel else no_kernel():
            self.run.synchronize()
            began = time.perf_counter()
            step(given).backward()
            self.run.synchronize()
            taken = time.perf_counter() - began
        self.model.zero_grad(set_to_none=True)
        return taken, (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else 0.0

    def _profile(self, way: Way, step: Step, given: dict[str, Any]) -> dict[str, Any]:
        """Kernels, the share of the step in which one runs, and how often the host waits for the device."""
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.run.device == "cuda" else [])]
        with profile(activities=kinds) as profiler:
            taken, _ = self._take(way, step, given)
        counts: Counter[str] = Counter()
        busy = 0.0
        for event in profiler.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                counts["kernels and copies"] += 1
                busy += event.time_range.elapsed_us()
            elif "Synchronize" in event.name:
                counts["synchronisations"] += 1
            elif event.name == "aten::scaled_dot_product_attention":
                counts["calls of masked or plain attention"] += 1
            elif event.name == "aten::_flash_attention_forward":
                counts["calls of flash attention"] += 1
            elif event.name == "aten::_local_scalar_dense":
                counts["values read by the host"] += 1
        return {**counts, "seconds": round(taken, 4), "busy share": round(busy / 1e6 / taken, 3)}

    def self_check(self, setting: Setting) -> None:
        """What a run's first batch says in bfloat16, with the kernel and with the mask."""
        from aspo_plugin.logprobs.pair_batch import images_once
        from aspo_plugin.logprobs.response import ResponseLogProbs

        given = self._batch(setting)
        mask = given.pop("labels") != -100
        self.model.forward = self.forwards["aspo"]
        for kernel in (True, False):
            logps = ResponseLogProbs(shared_prefix="true")
            with torch.no_grad(), nullcontext() if kernel else no_kernel():
                logps(self.model, images_once(given), mask.clone())
            verdict = logps.verdict
            assert verdict is not None
            run_way = "flash" if kernel else "dense mask"
            # The limit follows the noise of these random weights: the difference is told in roundings, too.
            roundings = round(verdict.difference / torch.finfo(torch.bfloat16).eps, 2)
            self.run.record(
                self_check=run_way,
                verdict=str(verdict),
                holds=verdict.holds,
                roundings=roundings,
                quotient=round(verdict.difference / verdict.limit, 3),
            )


def _ratios(per_pair: dict[str, float], ways: list[Way]) -> dict[str, float]:
    """To the host's best time per pair, whatever batch it had."""
    host = [per_pair[way.name] for way in ways if way.host and way.name in per_pair]
    if not host:
        return {}
    return {w.name: round(per_pair[w.name] / min(host), 3) for w in ways if w.name in per_pair}


@contextmanager
def no_kernel() -> Iterator[None]:
    """While open, attention goes by the mask, as on a card without the kernel."""
    from aspo_plugin.logprobs import response, varlen

    before = varlen.kernel_for
    varlen.kernel_for = response.kernel_for = lambda *_: None
    try:
        yield
    finally:
        varlen.kernel_for = response.kernel_for = before
