"""A vision-language model behind an OpenAI-compatible endpoint (vLLM and its like)."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.generate.answers import Answer, Sampling
from dataset_tools.generate.distortions import noised_picture

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 4
_ANSWER_SECONDS = 600
_MOST_BYTES = 64 << 20


class Endpoint:
    """A server at `address` (with `/v1`), asked over `/chat/completions`; the rows of a batch at once.

    `key_variable`: environment variable that holds the key, sent as a bearer token; none is sent without it.
    A request that fails for the server's sake (429, 5xx, no connection) is tried four times, then an error.
    """

    def __init__(self, address: str, model: str, key_variable: str | None = None, pause: float = 2.0):
        if not address.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {address} is no address: http://127.0.0.1:8000/v1, for example.")
        self.address, self.model, self._pause = address.rstrip("/"), model, pause
        self._headers = {"Content-Type": "application/json"}
        if key_variable:
            if not os.environ.get(key_variable):
                raise UsageError(f"--api-key-env {key_variable}: that environment variable is not set.")
            self._headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
        self._check()

    def _check(self) -> None:
        """Meet a wrong address or model before the first row."""
        try:
            found = self._ask("/models", None)
        except BadRow as error:
            raise UsageError(
                f"{self.address} does not answer as an OpenAI-compatible endpoint ({error}): the address "
                "ends in /v1 for most servers."
            ) from None
        try:
            names = [item["id"] for item in found["data"]]
        except (KeyError, TypeError):
            return
        if names and self.model not in names:
            raise UsageError(f"{self.address} serves {', '.join(map(str, names))}, not {self.model}.")

    def identity(self) -> dict[str, Any]:
        """The model's name. The address is left out: the same model may be served elsewhere after a stop."""
        return {"model": self.model, "served": True}

    def answer(
        self,
        questions: Sequence[str],
        pictures: Sequence[Image],
        seeds: Sequence[int],
        sampling: Sampling,
        noise_step: int | None = None,
    ) -> list[list[Answer] | BadRow]:
        """See `Answerer.answer`. Every row has its own seed, which vLLM honours."""
        with ThreadPoolExecutor(len(questions), thread_name_prefix="endpoint") as pool:
            ask = partial(self._row, sampling=sampling, noise_step=noise_step)
            return list(pool.map(ask, questions, pictures, seeds))

    def _row(
        self, question: str, picture: Image, seed: int, sampling: Sampling, noise_step: int | None
    ) -> list[Answer] | BadRow:
        if noise_step is not None:
            picture = noised_picture(picture, noise_step, seed)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        image = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": question},
        ]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "n": sampling.count,
            "seed": seed,
        }
        try:
            found = self._ask("/chat/completions", request)
            choices = [
                Answer((choice["message"].get("content") or "").strip(), choice["finish_reason"] == "length")
                for choice in found["choices"]
            ]
        except BadRow as error:
            return error
        except (KeyError, TypeError, AttributeError):
            raise DataError(f"{self.address} answers otherwise than an OpenAI-compatible endpoint.") from None
        if len(choices) != sampling.count:
            raise DataError(
                f"{self.address} gave {len(choices)} answers where {sampling.count} were asked for (`n`)."
            )
        return choices

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """The JSON answer. Raises `BadRow` where the server refuses the request, `DataError` if it fails."""
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(_TRIES):
            request = urllib.request.Request(self.address + path, data, self._headers)
            try:
                with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                    return json.loads(answer.read(_MOST_BYTES))
            except urllib.error.HTTPError as error:
                text = " ".join(error.read(500).decode("utf-8", "replace").split())
                problem = f"HTTP {error.code}"
                if error.code in (401, 403):
                    raise UsageError(f"{self.address} wants a key ({problem}): --api-key-env NAME.") from None
                if error.code != 429 and error.code < 500:
                    raise BadRow(f"the endpoint refused the request, {problem}: {text[:200]}") from None
            except (OSError, ValueError) as error:
                problem = str(getattr(error, "reason", None) or error)
            if attempt < _TRIES - 1:
                time.sleep(self._pause * 2**attempt)
        raise DataError(
            f"{self.address}{path} failed {_TRIES} times, last with {problem}: see the server's log, then "
            "run the same command with --resume."
        )
