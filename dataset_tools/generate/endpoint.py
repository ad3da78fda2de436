"""A vision-language model behind an OpenAI-compatible endpoint (vLLM and its like)."""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.generate.answers import Answer, Sampling, answer_of
from dataset_tools.generate.distortions import noised_picture

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 4
_ANSWER_SECONDS = 600
_MOST_BYTES = 64 << 20
_WITHOUT_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}
"""vLLM, SGLang and llama.cpp hand it to the template; one that does not know it leaves it alone."""


class Endpoint:
    """A server at `address` (with `/v1`), asked over `/chat/completions`; the rows of a batch at once.

    `key_variable`: environment variable that holds the key, sent as a bearer token; none is sent without it.
    A request that fails for the server's sake (429, 5xx, no connection) is tried four times, then an error.
    """

    def __init__(self, address: str, model: str, key_variable: str | None = None, pause: float = 2.0):
        if not address.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {address} is no address: http://127.0.0.1:8000/v1, for example.")
        self.address, self.model, self._pause = address.rstrip("/"), model, pause
        self._switches = True
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
        stop = threading.Event()
        ask = partial(self._row, sampling=sampling, noise_step=noise_step, stop=stop)
        return _side_by_side(ask, list(zip(questions, pictures, seeds, strict=True)), stop)

    def _row(
        self,
        question: str,
        picture: Image,
        seed: int,
        sampling: Sampling,
        noise_step: int | None,
        stop: threading.Event,
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
            choices = [_answer(choice) for choice in self._complete(request, stop)["choices"]]
        except BadRow as error:
            return error
        except (KeyError, TypeError, AttributeError):
            raise DataError(f"{self.address} answers otherwise than an OpenAI-compatible endpoint.") from None
        if len(choices) != sampling.count:
            raise DataError(
                f"{self.address} gave {len(choices)} answers where {sampling.count} were asked for (`n`)."
            )
        return choices

    def _complete(self, request: dict[str, Any], stop: threading.Event) -> Any:
        """The server's answer, without thoughts where its template can leave them out."""
        if self._switches:
            try:
                return self._ask("/chat/completions", {**request, **_WITHOUT_THOUGHTS}, stop)
            except BadRow as error:
                if "chat_template" not in str(error):  # OpenAI's own and Mistral's know no such field
                    raise
                self._switches = False
        return self._ask("/chat/completions", request, stop)

    def _ask(self, path: str, body: dict[str, Any] | None, stop: threading.Event | None = None) -> Any:
        """The JSON answer. Raises `BadRow` where the server refuses the request, `DataError` if it fails."""
        data = None if body is None else json.dumps(body).encode()
        problem = "no answer"
        for attempt in range(_TRIES):
            if stop and stop.is_set():
                break  # nobody waits for this answer any more
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
                (stop or threading.Event()).wait(self._pause * 2**attempt)
        raise DataError(
            f"{self.address}{path} failed {_TRIES} times, last with {problem}: see the server's log, then "
            "run the same command with --resume."
        )


def _answer(choice: dict[str, Any]) -> Answer:
    """A choice's text; a server with a reasoning parser gives the thoughts in a field of their own."""
    message, cut = choice["message"], choice["finish_reason"] == "length"
    answer = answer_of(message.get("content") or "", cut)
    if message.get("reasoning_content") or message.get("reasoning"):
        return answer._replace(thoughts=bool(answer.text), unfinished=not answer.text)
    return answer


def _side_by_side(
    ask: Callable[..., list[Answer] | BadRow], rows: Sequence[tuple[Any, ...]], stop: threading.Event
) -> list[list[Answer] | BadRow]:
    """The answers of all rows, each asked in a thread of its own that neither an error nor Ctrl-C waits for.

    Executors wait for their threads, and a server may take minutes. `stop` is set when it is over.
    """
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def work(index: int, row: tuple[Any, ...]) -> None:
        try:
            done.put((index, ask(*row), None))
        except BaseException as error:
            done.put((index, None, error))

    found: dict[int, list[Answer] | BadRow] = {}
    try:
        for index, row in enumerate(rows):
            threading.Thread(target=work, args=(index, row), name="endpoint", daemon=True).start()
        while len(found) < len(rows):
            try:
                index, answers, error = done.get(timeout=1)  # Windows hears no Ctrl-C in a wait without end
            except queue.Empty:
                continue
            if error:
                raise error
            found[index] = answers
    finally:
        stop.set()
    return [found[index] for index in range(len(rows))]
