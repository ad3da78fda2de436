"""The table of samples: which pairs it keeps, when it is written, and that it never stops a run."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.training.samples import FILE, SampleLog
from tests.support import samples

ALPHA = 0.3


class Words:
    """A tokenizer whose token n reads `n`; 0 is special."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(str(token) for token in ids if token)


class Trainer:
    def __init__(self, folder: Any, process_index: int = 0, callbacks: Any = ()) -> None:
        self.args = SimpleNamespace(process_index=process_index, output_dir=str(folder))
        self.processing_class = SimpleNamespace(tokenizer=Words())
        self.callback_handler = SimpleNamespace(callbacks=list(callbacks))

    def add_callback(self, callback: Any) -> None:
        self.callback_handler.callbacks.append(callback)


def batch(counts: list[list[int]], first: int, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """Loss and batch of chosen responses with so many tokens per sentence; token ids from `first` on."""
    torch.manual_seed(seed)
    length = 2 + max(map(sum, counts))
    ids = torch.full((len(counts), length), -1)
    for row, sizes in zip(ids, counts, strict=True):
        row[2 : 2 + sum(sizes)] = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    shape = (len(counts), length)
    similarity = torch.rand(len(counts), max(map(len, counts)))
    policy, reference = (-torch.rand(shape) * (ids >= 0) for _ in range(2))
    rejected = -torch.rand(shape)
    output = aspo_loss(
        policy.requires_grad_(), rejected, reference, rejected, ids, similarity, beta=0.1, alpha=ALPHA
    )
    tokens = first + torch.arange(2 * len(counts) * length).view(2 * len(counts), length)
    return output, {"sentence_ids": ids, "input_ids": tokens}


def logged(log: SampleLog, step: int, **logs: float) -> None:
    log.on_log(None, SimpleNamespace(global_step=step), None, logs=logs or {"loss": 1.0})


def test_the_last_pairs_before_a_logging_step_with_their_numbers(tmp_path):
    log = SampleLog(Trainer(tmp_path), 3)
    batches = [batch([[2, 3], [4]], 100, 1), batch([[1, 1, 2], [3, 2]], 200, 2), batch([[5, 2]], 300, 3)]
    for output, inputs in batches:
        log.keep(output, inputs)
    logged(log, 7, eval_loss=1.0)  # an evaluation takes nothing away
    assert not (tmp_path / FILE).exists()
    logged(log, 8)
    logged(log, 9)  # nothing since
    rows = samples.read(tmp_path)
    assert [(row["step"], row["pair"], row["sentence"]) for row in rows] == [
        (8, 0, 0), (8, 0, 1), (8, 0, 2), (8, 1, 0), (8, 1, 1), (8, 2, 0), (8, 2, 1),
    ]  # fmt: skip
    places = [(batches[1], 0, 3), (batches[1], 1, 2), (batches[2], 0, 2)]
    expected = iter(rows)
    for (output, inputs), index, sentences in places:
        for k in range(sentences):
            row = next(expected)
            tokens = inputs["input_ids"][index][inputs["sentence_ids"][index] == k].tolist()
            assert row["text"].split() == list(map(str, tokens)) and row["tokens"] == len(tokens)
            assert row["prompt"].split() == list(map(str, inputs["input_ids"][index][:2].tolist()))
            for name in ("similarity", "coefficient", "log_ratio", "weight"):
                value = getattr(output, {"weight": "weights"}.get(name, name + "s"), None)
                value = output.similarity if value is None else value
                assert row[name] == pytest.approx(float(value[index, k]), rel=1e-6), name
            assert row["perplexity"] == pytest.approx(float(output.nll[index, k].exp()), rel=1e-5)


def test_what_is_not_known_is_none(tmp_path):
    output, inputs = batch([[2, 3]], 10)
    unknown = output.similarity.clone()
    unknown[0, 1] = torch.nan
    log = SampleLog(Trainer(tmp_path), 1)
    log.keep(output._replace(similarity=unknown, nll=output.nll + 1e6), inputs)
    logged(log, 1)
    first, second = samples.read(tmp_path)
    assert first["similarity"] is not None and second["similarity"] is None
    assert first["similarity_scaled"] is second["similarity_scaled"] is None
    assert first["perplexity"] > 1e300


@pytest.mark.parametrize(("number", "process"), [(0, 0), (2, 1)])
def test_none_and_other_processes_keep_nothing(number, process, tmp_path):
    trainer = Trainer(tmp_path, process)
    log = SampleLog(trainer, number)
    log.keep(None, {})  # type: ignore[arg-type]  # not even looked at
    logged(log, 1)
    assert trainer.callback_handler.callbacks == [] and list(tmp_path.iterdir()) == []


def test_a_resumed_run_goes_on_behind_its_checkpoint_and_a_new_one_begins_anew(tmp_path):
    def run(begin: int, *steps: int) -> list[int]:
        log = SampleLog(Trainer(tmp_path), 1)
        log.on_train_begin(None, SimpleNamespace(global_step=begin), None)
        for step in steps:
            log.keep(*batch([[2, 3]], 10))
            logged(log, step)
        return [row["step"] for row in samples.read(tmp_path) if row["sentence"] == 0]

    assert run(0, 1, 2, 3) == [1, 2, 3]
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "pa')  # killed while it wrote
    assert run(2, 3, 4) == [1, 2, 3, 4]
    assert run(0, 1) == [1]


def test_a_tracker_that_fails_is_named_once_and_stops_nothing(tmp_path, caplog):
    class TensorBoardCallback:
        calls = 0

        @property
        def tb_writer(self) -> Any:
            self.calls += 1
            raise OSError("disk full")

    class Own(TensorBoardCallback):  # a host's subclass
        pass

    log = SampleLog(Trainer(tmp_path, callbacks=[Own()]), 1)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            log.keep(*batch([[2, 3]], 10))
            logged(log, step)
    assert [record.getMessage() for record in caplog.records if "disk full" in record.getMessage()] == [
        f"TensorBoard takes no table of samples (OSError: disk full): from now on they are in "
        f"{tmp_path / FILE} only."
    ]
    assert {row["step"] for row in samples.read(tmp_path)} == {1, 2}
