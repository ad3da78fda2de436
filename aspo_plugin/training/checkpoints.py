"""Resuming a full fine-tuning exactly, also where a model is saved under other names than it trains under."""

from __future__ import annotations

from typing import Any


class ExactResume:
    """For trainers of `transformers`, before the trainer class in the bases.

    Some vision-language models are saved under the names of older releases. The Trainer reads a checkpoint
    (to resume, or the best one at the end) with `strict=False`, so it would go on from the initial or keep
    the last weights without an error (seen with LLaVA and Qwen2.5-VL on transformers 5.6). Relies on
    `Trainer._load_from_checkpoint`, `_load_best_model` and `_issue_warnings_after_load`; can go when the
    Trainer maps the names back.
    """

    _loading: str | None = None  # the checkpoint that the Trainer is reading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._loading = resume_from_checkpoint
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        finally:
            self._loading = None

    def _load_best_model(self) -> None:
        self._loading = self.state.best_model_checkpoint  # type: ignore[attr-defined]
        try:
            super()._load_best_model()  # type: ignore[misc]
        finally:
            self._loading = None

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        model = self.model  # type: ignore[attr-defined]
        missing = set(load_result.missing_keys) - set(getattr(model, "_keys_to_ignore_on_save", None) or [])
        if not missing or self._loading is None or not hasattr(model, "from_pretrained"):
            super()._issue_warnings_after_load(load_result)  # type: ignore[misc]
            return
        saved = type(model).from_pretrained(self._loading, dtype="auto")
        # Strict: a checkpoint that still does not fit stops the run.
        model.load_state_dict(saved.state_dict())
