"""What a push to the Hub leaves at home: files of ours that quote the data or name this machine's folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .files import ARGS, CONFIG, KEPT, REJECTED, RUN, SAMPLES

STAYS = (REJECTED, SAMPLES, RUN, ARGS, CONFIG, KEPT)
"""Texts of rows, or paths. A checkpoint's `aspo_settings.json` goes: a run elsewhere resumes by it."""


class PrivateFilesStay:
    """For trainers of `transformers`, before the trainer class in the bases.

    `Trainer` uploads its whole output folder but for names with a leading underscore, to a repository that
    may be public.
    """

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        with private_files_stay():
            return super().push_to_hub(*args, **kwargs)  # type: ignore[misc]

    def _push_from_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        with private_files_stay():
            return super()._push_from_checkpoint(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def private_files_stay() -> Iterator[None]:
    """While open, no upload that begins takes `STAYS`: `Trainer` has no argument for it."""
    import huggingface_hub
    import transformers.trainer

    # Some versions of transformers have a method bound to the Hub's client there, others the client.
    places = [(huggingface_hub.HfApi, "upload_folder")]
    if hasattr(transformers.trainer, "upload_folder"):
        places.append((transformers.trainer, "upload_folder"))
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name, upload in before:
            setattr(place, name, _without_private_files(upload))
        yield
    finally:
        for place, name, upload in before:
            setattr(place, name, upload)


def _without_private_files(upload: Callable[..., Any]) -> Callable[..., Any]:
    def upload_folder(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("ignore_patterns", None) or []
        patterns = [given] if isinstance(given, str) else list(given)
        patterns += [pattern for name in STAYS for pattern in (name, f"*/{name}")]
        return upload(*args, ignore_patterns=patterns, **kwargs)

    return upload_folder
