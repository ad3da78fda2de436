"""Memory on one GPU of a training step, from counts: the formulas are printed beside the numbers.

Upper bounds for the longest batch: every row as long as the limit, nothing shared within a pair. Not in the
formulas, and covered by the last line: the CUDA context, workspaces of the kernels, the vision tower's
forward pass, fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Shape
from .recipe import Run

LOGIT_CHUNK = 2**25  # logits in memory at a time: CHUNK_ELEMENTS of aspo_plugin.logprobs.chunked
CONTEXT = 1.5 * 2**30
FRAGMENTATION = 0.08


@dataclass(frozen=True)
class Part:
    name: str
    bytes: float
    formula: str


def estimate(run: Run, shape: Shape) -> list[Part]:
    """What a step needs on each GPU, part by part."""
    tokens = 2 * run.pairs * run.length
    parts = [
        *_states(run, shape),
        _activations(run, shape, tokens),
        # Logits are gone when the first layer is computed again, so only the larger counts.
        max(_layer(run, shape, tokens), _logits(shape, tokens), key=lambda part: part.bytes),
    ]
    known = sum(part.bytes for part in parts)
    parts.append(
        Part("other", CONTEXT + FRAGMENTATION * known, f"1.5 GiB + {FRAGMENTATION:.0%} of the above")
    )
    return parts


def _states(run: Run, shape: Shape) -> list[Part]:
    """Weights, reference, gradients and optimizer states: bytes a parameter, times parameters."""
    everything = run.gpus if run.sharding in ("zero3", "fsdp") else 1
    gradients = run.gpus if run.sharding in ("zero2", "zero3", "fsdp") else 1
    optimizer = run.gpus if run.sharding in ("zero1", "zero2", "zero3", "fsdp") else 1
    P, N = shape.parameters, shape.trainable
    shared, shared_gradients, shared_optimizer = (
        f" / {count} GPUs" if count > 1 else "" for count in (everything, gradients, optimizer)
    )
    # Its accelerate casts every weight to float32 for FSDP2; that of Axolotl at most those that are trained.
    kept = 4 if run.host == "llamafactory" and run.sharding == "fsdp" and run.gpus > 1 else 2
    parts = []
    if run.method == "qlora":
        # 4 bits a weight and, in blocks of 64, one constant that is itself kept in 8 bits.
        size = kept * (P - shape.quantizable) + (0.5 + 1 / 64) * shape.quantizable
        formula = f"{kept} B x the rest + 0.516 B x {_billions(shape.quantizable)}"
        parts.append(Part("weights", size / everything, f"{formula}{shared}"))
    elif run.method == "lora":
        parts.append(Part("weights", kept * P / everything, f"{kept} B x {_billions(P)}{shared}"))
    if run.method in ("lora", "qlora"):
        parts.append(Part("adapters", 4 * N / everything, f"4 B x {_billions(N)}{shared}"))
        gradient, states = 4, 8
    else:
        # Trained in bfloat16 with a float32 copy in the optimizer (ZeRO), in float32 (LLaMA-Factory, FSDP2),
        # or all in bfloat16 (Axolotl on one GPU).
        if run.sharding.startswith("zero"):
            weight, gradient, states = 2, 2, 12
        elif run.host == "llamafactory" or run.sharding == "fsdp":
            weight, gradient, states = 4, 4, 8
        else:
            weight, gradient, states = 2, 2, 4
        size = (weight * N + kept * (P - N)) / everything
        formula = f"{weight} B x {_billions(N)} + {kept} B x {_billions(P - N)}"
        parts.append(Part("weights", size, f"{formula}{shared}"))
    if run.reference_copy:
        parts.append(Part("reference model", kept * P / everything, f"{kept} B x {_billions(P)}{shared}"))
    parts.append(
        Part("gradients", gradient * N / gradients, f"{gradient} B x {_billions(N)}{shared_gradients}")
    )
    parts.append(
        Part("optimizer", states * N / optimizer, f"{states} B x {_billions(N)} (AdamW){shared_optimizer}")
    )
    if everything > 1:
        parts.append(
            Part("gathered weights", 2 * 2 * shape.largest, f"2 B x {_billions(shape.largest)}, two pieces")
        )
    return parts


def _activations(run: Run, shape: Shape, tokens: int) -> Part:
    """What is kept from the forward pass for the backward pass."""
    if run.checkpointing:
        size = 2 * shape.layers * tokens * shape.hidden
        return Part("activations", size, f"2 B x {shape.layers} layers x {tokens:,} tokens x {shape.hidden}")
    size = shape.layers * tokens * _per_token(run, shape)
    return Part(
        "activations", size, f"{_per_token(run, shape):,} B x {shape.layers} layers x {tokens:,} tokens"
    )


def _layer(run: Run, shape: Shape, tokens: int) -> Part:
    """One layer in the backward pass: its activations computed again, and the gradients of the MLP's three
    widest and of two residuals; those before are gone by then."""
    size = _per_token(run, shape) + 2 * (3 * shape.inner + 2 * shape.hidden)
    return Part("one layer", size * tokens, f"{size:,} B x {tokens:,} tokens")


def _per_token(run: Run, shape: Shape) -> int:
    """Bytes a token of one layer keeps: two norms (float32 and result), queries, keys and values, the
    attention's output, two residuals, gate, up, their activation and product; adapters' inputs, rank wide."""
    size = 2 * (4 + 2) * shape.hidden + 2 * shape.attention + 2 * 2 * shape.hidden + 2 * 4 * shape.inner
    return size + (0 if run.method == "full" else 7 * 4 * run.rank)


def _logits(shape: Shape, tokens: int) -> Part:
    """Logits are read in chunks: one in float32, its exponentials, their bfloat16 copy; and d/d hidden."""
    chunk = min(tokens * shape.vocabulary, LOGIT_CHUNK)
    size = 10 * chunk + 2 * tokens * shape.hidden
    return Part("logits", size, f"10 B x {chunk:,} at a time + 2 B x {tokens:,} tokens x {shape.hidden}")


def _billions(count: float) -> str:
    return f"{count / 1e9:.2f}e9" if count >= 1e8 else f"{count / 1e6:.1f}e6"
