"""What `log_samples` costs: time of the noting of each batch, and of the writing at a logging step.

    python -m benchmarks.samples_cost --pairs 4 --logging-steps 1

In the environment of a host, on tensors of a batch as large as 7B models train on (640 tokens of prompt, 300
of response, 8 sentences), with the tokenizer of the tests' small LLaVA, written to a file, no tracker.
Processor time of this machine, the median of many; `--step` is the training step that it is held against.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from aspo_plugin.training.samples import SampleLog
from tests.support import backbones

PROMPT, RESPONSE, SENTENCES = 640, 300, 8


def batch(pairs: int, vocabulary: int) -> tuple[Any, dict[str, Any]]:
    """A trained batch, as `SampleLog.keep` takes it."""
    ids = torch.full((pairs, PROMPT + RESPONSE), -1)
    ids[:, PROMPT:] = torch.arange(RESPONSE) * SENTENCES // RESPONSE
    tokens = torch.randint(5, vocabulary, (2 * pairs, PROMPT + RESPONSE))
    numbers = {name: torch.rand(pairs, SENTENCES) for name in ("similarity", "nll", "weights", "log_ratios")}
    counts = torch.full((pairs, SENTENCES), RESPONSE / SENTENCES)
    output = SimpleNamespace(token_counts=counts, coefficients=torch.rand(pairs, SENTENCES), **numbers)
    return output, {"sentence_ids": ids, "input_ids": tokens}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4, help="log_samples")
    parser.add_argument("--batch", type=int, default=1, help="pairs of a batch")
    parser.add_argument("--logging-steps", type=int, default=1)
    parser.add_argument("--accumulation", type=int, default=8, help="batches of a step")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of one training step")
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(backbones.build("llava", Path(folder) / "model"))
        trainer = SimpleNamespace(
            args=SimpleNamespace(process_index=0, output_dir=folder),
            processing_class=tokenizer,
            callback_handler=SimpleNamespace(callbacks=[]),
            add_callback=lambda callback: None,
        )
        log = SampleLog(trainer, given.pairs)
        output, tensors = batch(given.batch, len(tokenizer))
        times = []
        for step in range(given.repeats):
            began = time.process_time()
            for _ in range(given.accumulation * given.logging_steps):
                log.keep(output, tensors)
            log.on_log(trainer.args, SimpleNamespace(global_step=step), None, logs={"loss": 1.0})
            times.append(time.process_time() - began)
        took = statistics.median(times)
        size = sum(1 for _ in (Path(folder) / "aspo_samples.jsonl").open()) // given.repeats
    share = took / (given.step * given.logging_steps)
    print(f"{given.pairs} pairs, {size} sentences, at each {given.logging_steps} steps: {took * 1000:.1f} ms")
    print(f"{share:.2%} of training at {given.step:g} s a step")


if __name__ == "__main__":
    main()
