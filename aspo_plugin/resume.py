"""Resuming a full fine-tuning exactly, also where a model is saved under other names than it trains under."""

from __future__ import annotations

from typing import Any


class ExactResume:
    """For trainers of `transformers`, before the trainer class in the bases.

    Some vision-language models are saved under the names of older releases. The Trainer reads a checkpoint
    with `strict=False`, so it would go on from the initial weights without an error (seen with LLaVA and
    Qwen2.5-VL on transformers 5.6). Relies on `Trainer._load_from_checkpoint` and
    `_issue_warnings_after_load`; can go when the Trainer maps the names back.
    """

    _resumed_from: str | None = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._resumed_from = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        model = self.model  # type: ignore[attr-defined]
        missing = set(load_result.missing_keys) - set(getattr(model, "_keys_to_ignore_on_save", None) or [])
        if not missing or self._resumed_from is None or not hasattr(model, "from_pretrained"):
            super()._issue_warnings_after_load(load_result)  # type: ignore[misc]
            return
        saved = type(model).from_pretrained(self._resumed_from, dtype="auto")
        # Strict: a checkpoint that still does not fit stops the run.
        model.load_state_dict(saved.state_dict())
