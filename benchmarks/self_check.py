"""How far the self-check's bound is from sound models and from faults: `aspo_plugin/logprobs/self_check.py`.

    python -m benchmarks.self_check                    five architectures, 2 to 32 layers, 20 seeds, bfloat16
    python -m benchmarks.self_check --layers 64 --seeds 50 --sharpness 1.5 --response 1 4

On a CPU, with what makes log-probs of the same rows differ on a GPU put in, by turns: attention of pairs in
one row, problem by problem, in place of the mask; and products whose sum is split and rounded to bfloat16
on the way, into a number of parts that follows from the number of rows (as cuBLAS may). Random weights,
layers of width 64, responses that the model itself samples. `sharpness` is the gain of a layer's products,
`head` that of the output layer: large logits are rounded coarsely, as a trained model's are. A quotient is
difference by limit: the run stops above 1. "by padding": the limit as it was before, 4 times what more
padding alone does plus 4 units of rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from aspo_plugin.logprobs import pair_batch, pair_layout, response, varlen
from aspo_plugin.logprobs import self_check as checks
from aspo_plugin.logprobs.response import ResponseLogProbs
from tests.support.pairs import padded_rows

EPS = torch.finfo(torch.bfloat16).eps
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "Qwen3": {},
    "Mistral": {"sliding_window": 16},
    "Gemma3Text": {"sliding_window": 16, "query_pre_attn_scalar": 16},
}
SIZES = dict(
    vocab_size=512, hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, max_position_embeddings=4096, pad_token_id=0,
)  # fmt: skip


def build(kind: str, layers: int, seed: int, sharpness: float, head: float) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **MODELS[kind], num_hidden_layers=layers)
    name = "Gemma3" if kind == "Gemma3Text" else kind
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
    model.lm_head.weight = nn.Parameter(torch.empty(SIZES["vocab_size"], 64), requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            gain = head if module is model.lm_head else sharpness
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    return model


def batch(
    model: Any, seed: int, response: list[int], pairs: int = 3
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Random prompts, and responses that the model samples: likely ones, as a trained model's data are."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(3, 512, random.integers(40, 90)) for _ in range(pairs)]
    torch.manual_seed(seed)
    rows = []
    for prompt in prompts * 2:
        made = model.generate(
            torch.from_numpy(prompt)[None],
            do_sample=True,
            top_k=0,
            max_new_tokens=int(random.integers(*response)),
            eos_token_id=None,
        )
        rows.append(made[0].numpy())
    return padded_rows(prompts, rows)


def split_linear(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    parts = 1 + hidden.shape[:-1].numel() % 4
    pieces = zip(hidden.chunk(parts, -1), self.weight.chunk(parts, 1), strict=True)
    total, *rest = [F.linear(a, b) for a, b in pieces]
    for other in rest:
        total = total + other
    return total if self.bias is None else total + self.bias.to(total.dtype)


# --- faults ---------------------------------------------------------------------------------------------


def rejected_sees_chosen() -> Any:
    right = pair_batch.attention_masks
    problems = varlen.pair_problems

    def segments(layout: Any, *given: Any) -> Any:
        segment = torch.where(layout.segment == pair_layout.REJECTED, pair_layout.CHOSEN, layout.segment)
        return right(dataclasses.replace(layout, segment=segment), *given)

    def whole(pieces: Any, tokens: int, device: Any) -> Any:
        joined = [dataclasses.replace(p, chosen=p.chosen + p.rejected, rejected=0) for p in pieces]
        return problems(joined, tokens, device)

    stack = ExitStack()
    stack.enter_context(patch.object(pair_batch, "attention_masks", segments))
    stack.enter_context(patch.object(varlen, "pair_problems", whole))
    return stack


def _moved(by: Any) -> Any:
    right = pair_batch._positions

    def positions(*given: Any) -> torch.Tensor:
        layout = given[4]
        return right(*given) + by(layout) * (layout.segment == pair_layout.REJECTED)

    return patch.object(pair_batch, "_positions", positions)


def one_position() -> Any:
    """Positions of the rejected response are one too high."""
    return _moved(lambda layout: 1)


def positions_go_on() -> Any:
    """Positions of the rejected response go on from the chosen one's end."""

    def lengths(layout: Any) -> torch.Tensor:
        by = torch.zeros_like(layout.segment).flatten()
        for piece in layout.pieces:
            by[piece.start : piece.start + piece.length] = piece.chosen
        return by.view(layout.segment.shape)

    return _moved(lengths)


def wrong_predictor() -> Any:
    """The first rejected token is predicted by the chosen response's last."""
    right = pair_batch.plan

    def plan(*given: Any, **options: Any) -> Any:
        made = right(*given, **options)
        for piece in made.pieces:
            first = piece.start + piece.prompt + piece.chosen
            place = np.flatnonzero(made.place == made.source.ravel()[first])
            made.predictor[place] = first - 1
        return made

    return patch.object(pair_batch, "plan", plan)


def no_window() -> Any:
    right = response.describe
    return patch.object(response, "describe", lambda model: dataclasses.replace(right(model), window=None))


FAULTS = {
    "rejected sees chosen": rejected_sees_chosen,
    "positions one too high": one_position,
    "positions go on": positions_go_on,
    "first token's predictor": wrong_predictor,
    "no window": no_window,
}


# --- measuring ------------------------------------------------------------------------------------------


@contextmanager
def as_on_a_gpu(packed: bool, split: bool) -> Iterator[None]:
    from tests.support.varlen import one_by_one

    with ExitStack() as stack:
        if packed:
            for place in (response, varlen):
                stack.enter_context(patch.object(place, "kernel_for", lambda *_: one_by_one))
        if split:
            stack.enter_context(patch.object(nn.Linear, "forward", split_linear))
        yield


@dataclasses.dataclass
class Found:
    """What one self-check found: its verdict, and the quotient by padding alone."""

    verdict: checks.Verdict
    by_padding: float

    @property
    def quotient(self) -> float:
        return self.verdict.difference / self.verdict.limit


def check(model: Any, given: Any, autocast: bool) -> Found:
    inputs, wanted = given
    verdicts = []
    for nudge in (nullcontext, checks.nudge):
        logps = ResponseLogProbs()
        with (
            patch.object(checks.Verdict, "holds", True),
            patch.object(
                checks,
                "nudge",
                lambda *given, nudge=nudge: nudge() if nudge is nullcontext else nudge(*given),
            ),
            torch.autocast("cpu", torch.bfloat16, autocast),
        ):
            for _ in range(2 if autocast else 1):  # packed once the precision is known
                logps(model, inputs, wanted.clone())
        assert logps.verdict is not None
        verdicts.append(logps.verdict)
    padded, nudged = verdicts
    logps = ResponseLogProbs(shared_prefix="false")(model, inputs, wanted)[wanted]
    before = 4 * padded.noise + 4 * EPS * max(1.0, float(logps.square().mean().sqrt()))
    return Found(nudged, padded.difference / before)


def spread(values: list[float]) -> dict[str, float]:
    points = {"least": 0.0, "median": 0.5, "99 %": 0.99, "most": 1.0}
    return {name: round(float(np.quantile(values, at)), 3) for name, at in points.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--sharpness", type=float, nargs="+", default=[0.7, 1.0, 1.5])
    parser.add_argument("--head", type=float, default=8.0, help="spread of the logits")
    parser.add_argument("--response", type=int, nargs=2, default=[10, 40], help="tokens, from and below")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--faults", type=int, default=3, help="seeds for each fault")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import transformers

    transformers.logging.set_verbosity_error()
    for layers in options.layers:
        for sharpness in options.sharpness:
            sound: list[Found] = []
            broken: dict[str, list[Found]] = {name: [] for name in FAULTS}
            for seed in range(options.seeds):
                kind = list(MODELS)[seed % len(MODELS)]
                model = build(kind, layers, seed, sharpness, options.head)
                # One after the other: float32 weights under autocast and bfloat16 weights, with and without.
                autocast, packed, split = bool(seed // 5 % 2), bool(seed % 2), bool(seed // 2 % 2)
                given = batch(model, seed, options.response)
                model = model if autocast else model.bfloat16()
                with as_on_a_gpu(packed, split):
                    sound.append(check(model, given, autocast))
                    for name, fault in FAULTS.items():
                        if len(broken[name]) >= options.faults or (
                            name == "no window" and "sliding_window" not in MODELS[kind]
                        ):
                            continue
                        with fault():
                            broken[name].append(check(model, given, autocast))
            print(json.dumps(report(layers, sharpness, sound, broken)), flush=True)


def report(
    layers: int, sharpness: float, sound: list[Found], broken: dict[str, list[Found]]
) -> dict[str, Any]:
    return {
        "layers": layers,
        "sharpness": sharpness,
        "sound, quotient": spread([found.quotient for found in sound]),
        "sound, quotient by padding": spread([found.by_padding for found in sound]),
        "difference, nats": spread([found.verdict.difference for found in sound]),
        "noise, nats": spread([found.verdict.noise for found in sound]),
        "faults, least and median quotient": {
            name: [round(float(np.quantile([f.quotient for f in found], at)), 2) for at in (0, 0.5)]
            for name, found in broken.items()
            if found
        },
    }


if __name__ == "__main__":
    main()
