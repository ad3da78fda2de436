"""Stages of `benchmarks.gpu_check` that need no model: the card, the kernel, and the tests marked `gpu`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aspo_plugin.logprobs import varlen
from aspo_plugin.logprobs.attention import SharedPrefix
from aspo_plugin.logprobs.pair_layout import plan, to_layout
from benchmarks.gpu_check import ROOT, Run

PACKAGES = "torch transformers peft accelerate trl datasets llamafactory flash-attn liger-kernel".split()
# Prompt and response of the kernel's timings: one pair of S = P + 2 R tokens.
LENGTHS = ((640, 125), (1280, 300), (4096, 512), (8192, 1024))


def machine(run: Run) -> None:
    """Versions, and the card's two ceilings: bfloat16 products and memory traffic."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions}
    if run.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "card": properties.name, "compute capability": f"{properties.major}.{properties.minor}",
            "memory GiB": round(properties.total_memory / 2**30, 1), "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }  # fmt: skip
    run.record(**found)
    size = 256 if run.tiny else 8192
    a, b = torch.randn(2, size, size, device=run.device, dtype=torch.bfloat16)
    seconds = _timed(run, lambda: a @ b)
    run.record(**{"bfloat16 products, TFLOP/s": round(2 * size**3 / seconds / 1e12, 1)})
    source = torch.empty(2**20 if run.tiny else 2**30, device=run.device, dtype=torch.uint8)
    goal = torch.empty_like(source)
    seconds = _timed(run, lambda: goal.copy_(source))
    run.record(**{"memory traffic, GB/s": round(2 * source.numel() / seconds / 1e9, 1)})


def against_float64(run: Run) -> None:
    """Values and gradients of random pairs, against attention in float64 by the dense mask.

    `error`: root mean square of the difference over that of the value. `plain error`: of torch's attention
    with the dense mask in the same type. The kernel should be no worse.
    """
    random = np.random.default_rng(0)
    for case in range(2 if run.tiny else 8):
        heads, key_heads = [(8, 8), (8, 2), (28, 4), (32, 32)][case % 4]
        size = [64, 128][case // 4 % 2]
        window = [None, 100, None, 37][case % 4]
        most = 40 if run.tiny else 600
        lengths = [random.integers(1, most, 3) for _ in range(int(random.integers(1, 5)))]
        shared = pairs(lengths, run.device, window=window, two_way=bool(case % 3 == 2), random=random)
        total = shared.layout.segment.shape[1]
        torch.manual_seed(case)
        made = [torch.randn(1, h, total, size, device=run.device) for h in (heads, key_heads, key_heads)]
        made = [x.to(torch.bfloat16) for x in made]
        weights = torch.randn(1, heads, total, size, device=run.device)
        found = _outcome(partial(_with_kernel, run, shared), made, weights)
        plain = _outcome(lambda q, k, v, s=shared: s._attend_masked(q, k, v, 0.0, None), made, weights)
        exact = _outcome(
            lambda q, k, v, s=shared: s._attend_masked(q, k, v, 0.0, None),
            [x.double() for x in made],
            weights,
        )
        names = ("output", "query's gradient", "key's gradient", "value's gradient")
        run.record(
            tokens=total, pairs=len(lengths), heads=[heads, key_heads], width=size, window=window,
            two_way=bool(case % 3 == 2),
            error={n: _error(f, e) for n, f, e in zip(names, found, exact, strict=True)},
            plain_error={n: _error(p, e) for n, p, e in zip(names, plain, exact, strict=True)},
        )  # fmt: skip


def times(run: Run) -> None:
    """Forward and backward of one layer's attention for one pair, in ms, against other ways."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for model, heads, key_heads in (("LLaVA-1.5-7B", 32, 32), ("Qwen2.5-VL-7B", 28, 4)):
        for prompt, response in LENGTHS[: 1 if run.tiny else None]:
            scale = 8 if run.tiny else 1
            lengths = [np.array([prompt, response, response]) // scale]
            shared = pairs(lengths, run.device)
            size = shared.layout.segment.shape[1]
            q, k, v = (_leaf(run, h, size) for h in (heads, key_heads, key_heads))
            kr, vr = (x.detach().repeat_interleave(heads // key_heads, 1).requires_grad_() for x in (k, v))
            mask = shared.mask
            ways: dict[str, tuple[Callable[[], Tensor], Any]] = {
                "prefix, flash": (lambda: _with_kernel(run, shared, q, k, v), None),  # noqa: B023
                "causal over S, flash": (_causal(q, kr, vr), SDPBackend.FLASH_ATTENTION),
                "mask, efficient": (_masked(q, kr, vr, mask), SDPBackend.EFFICIENT_ATTENTION),
                "mask, cuDNN": (_masked(q, kr, vr, mask), SDPBackend.CUDNN_ATTENTION),
                "mask, torch's choice": (_masked(q, kr, vr, mask), None),
            }
            found: dict[str, Any] = {}
            for name, (way, backend) in ways.items():
                try:
                    with nullcontext() if backend is None else sdpa_kernel(backend):
                        found[name] = round(_timed(run, lambda: way().sum().backward()) * 1e3, 3)  # noqa: B023
                except RuntimeError as error:  # a backend that this card, type or build does not have
                    found[name] = str(error).splitlines()[0][:80]
            run.record(model=model, P=prompt // scale, R=response // scale, S=size, ms=found)


def first_calls(run: Run) -> None:
    """What the first call of an unseen length takes over its second, in ms: no way should build plans."""
    random = np.random.default_rng(1)
    was = torch.backends.cuda.cudnn_sdp_enabled() if run.device == "cuda" else False
    for way in ("prefix, flash", "mask", "mask, cuDNN allowed"):
        over = []
        for _ in range(3 if run.tiny else 12):
            prompt = int(random.integers(500, 1500)) // (10 if run.tiny else 1)
            shared = pairs([np.array([prompt, 125, 131]) // (5 if run.tiny else 1)], run.device)
            q, k, v = (_leaf(run, 8, shared.layout.segment.shape[1]) for _ in range(3))
            kinds = {
                "prefix, flash": lambda: _with_kernel(run, shared, q, k, v),  # noqa: B023
                "mask": lambda: shared._attend_masked(q, k, v, 0.0, None),  # noqa: B023
                "mask, cuDNN allowed": _masked(q, k, v, shared.mask),
            }
            twice = [_once(run, lambda: kinds[way]().sum().backward()) * 1e3 for _ in range(2)]  # noqa: B023
            over.append(twice[0] - twice[1])
        over = over[1:]  # the way's very first call loads the library
        run.record(
            way=way, lengths=len(over), median_ms=round(statistics.median(over), 2),
            longest_ms=round(max(over), 2), cudnn_enabled=was,
        )  # fmt: skip


def tests(run: Run) -> None:
    """`pytest -m gpu tests/core`: what the CPU's suite cannot see."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/core", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    run.record(returncode=done.returncode, output=(done.stdout + done.stderr)[-2500:])
    # 5: every test left out, as without a GPU.
    if done.returncode not in (0, 5 if run.device == "cpu" else 0):
        sys.exit(done.returncode)


# --- parts ------------------------------------------------------------------------------------------------


def pairs(
    lengths: list[np.ndarray],
    device: str,
    *,
    window: int | None = None,
    two_way: bool = False,
    random: np.random.Generator | None = None,
) -> SharedPrefix:
    """The attention of pairs of (prompt, chosen, rejected) tokens in one row without padding."""
    lengths = [np.maximum(length, 1) for length in lengths]
    rows = [(int(p), int(p + r)) for p, c, r in lengths for r in (c, r)]
    rows = rows[::2] + rows[1::2]
    width = max(end for _, end in rows)
    columns = np.arange(width)
    seen = columns < np.array([[end] for _, end in rows])
    wanted = seen & (columns >= np.array([[start] for start, _ in rows]))
    ids = np.zeros(seen.shape, dtype=np.int64)
    marks = None
    if two_way and random is not None:
        marks = np.tile(random.random((len(lengths), width)) < 0.7, (2, 1))
    made = plan(ids, seen, wanted, two_way=marks, packed=True)
    assert not isinstance(made, str), made
    layout = to_layout(made, torch.device(device))
    problems = varlen.pair_problems(layout.pieces, layout.segment.numel(), torch.device(device))
    return SharedPrefix(layout, problems, window)


def _with_kernel(run: Run, shared: SharedPrefix, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if run.device == "cpu":  # no kernel there: the tests' stand-in, so that all of this runs
        from tests.support.varlen import one_by_one

        before, varlen.kernel_for = varlen.kernel_for, lambda *_: one_by_one
        try:
            return shared.attend(q, k, v)
        finally:
            varlen.kernel_for = before
    if varlen.kernel_for(q.device, q.dtype, q.shape[-1]) is None:
        raise RuntimeError("no flash kernel for this card and type")
    return shared.attend(q, k, v)


def _leaf(run: Run, heads: int, size: int) -> Tensor:
    made = torch.randn(1, heads, size, 128, device=run.device, dtype=torch.bfloat16)
    return made.requires_grad_()


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Callable[[], Tensor]:
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _outcome(attend: Callable[..., Tensor], given: list[Tensor], weights: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in given]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad((out * weights.to(out.dtype)).sum(), leaves)]


def _error(found: Tensor, exact: Tensor) -> float:
    exact = exact.double()
    return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def _once(run: Run, work: Callable[[], Any]) -> float:
    run.synchronize()
    began = time.perf_counter()
    work()
    run.synchronize()
    return time.perf_counter() - began


def _timed(run: Run, work: Callable[[], Any]) -> float:
    """Seconds of one call, the median of five rounds of several."""
    _once(run, work)
    rounds = 1 if run.tiny else 10
    return statistics.median(
        _once(run, lambda: [work() for _ in range(rounds)]) / rounds for _ in range(2 if run.tiny else 5)
    )
