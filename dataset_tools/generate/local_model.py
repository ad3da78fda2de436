"""A vision-language model of transformers, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.convert.source_identity import identity
from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.generate.answers import MARKS, Answer, Sampling, answer_of, opens_thoughts
from dataset_tools.generate.distortions import noise_level
from dataset_tools.nearest import nearly_here, not_here
from dataset_tools.own_code import refused_code

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

DTYPES = ("auto", "float32", "float16", "bfloat16")


class LocalModel:
    """A model by Hub id or folder, with its processor's chat template. No code of the model's is run.

    `dtype` "auto" is bfloat16 on a GPU (float16 where it has none) and float32 elsewhere. Raises `UsageError`
    where the model takes no images or has no chat template, `DataError` where it cannot be loaded.
    """

    def __init__(
        self, model: str, revision: str | None = None, device: str | None = None, dtype: str = "auto"
    ):
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        if dtype not in DTYPES:
            raise UsageError(f"dtype is {dtype!r}: choose one of {', '.join(DTYPES)}.")
        folder = Path(model).expanduser()
        local = folder.is_dir()
        if not local and (problem := not_here(model)):
            raise UsageError(f"the model {problem}")
        if local and revision:
            raise UsageError(
                f"revision {revision} goes with a Hub id, but {model} is a folder: leave it out."
            )
        source, asked = str(folder) if local else model, revision
        self.device = torch.device(device or _default_device())
        self.dtype = _dtype(dtype, self.device)
        try:
            config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            revision = getattr(config, "_commit_hash", None) or revision
            self._processor = AutoProcessor.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
            self._check_processor(model)
            self._model = AutoModelForImageTextToText.from_pretrained(
                source,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                **{_dtype_argument(): self.dtype},
            )
        except (UsageError, KeyboardInterrupt):
            raise
        except Exception as error:
            if refusal := refused_code(model, error):
                raise UsageError(refusal) from None
            text = str(error).strip() or type(error).__name__
            raise DataError(f"the model {model} cannot be loaded: {text}{nearly_here(model)}") from None
        self._model = self._model.to(self.device).eval().requires_grad_(False)
        self._identity: dict[str, Any] = {**named(model, asked), **({} if local else {"revision": revision})}
        self._identity["dtype"] = str(self.dtype).removeprefix("torch.")

    def _check_processor(self, model: str) -> None:
        processor = self._processor
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise UsageError(f"{model} takes no images: a vision-language model is needed.")
        if not getattr(processor, "chat_template", None):  # a tokenizer's own knows no images
            raise UsageError(
                f"{model} brings no chat template, so its prompt is not known: serve it with one (vLLM: "
                "--chat-template) and give --endpoint."
            )
        processor.tokenizer.padding_side = "left"  # answers begin where the prompts end
        if processor.tokenizer.pad_token_id is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def identity(self) -> dict[str, Any]:
        """Name, commit or content, and dtype."""
        return self._identity

    def answer(
        self,
        questions: Sequence[str],
        pictures: Sequence[Image],
        seeds: Sequence[int],
        sampling: Sampling,
        noise_step: int | None = None,
    ) -> list[list[Answer] | BadRow]:
        """See `Answerer.answer`. What is drawn depends on the first seed and on the batch's rows."""
        import torch

        texts = self._texts(questions)
        thinking = opens_thoughts(texts[0])
        batch = self._inputs(texts, pictures)
        if noise_step is not None:
            self._add_noise(batch, noise_step, seeds[0])
        moved = {}
        for name, value in batch.items():
            if hasattr(value, "to"):
                value = value.to(self.device)
                value = value.to(self.dtype) if value.is_floating_point() else value
            moved[name] = value
        settings: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            settings = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
                "num_return_sequences": sampling.count,
            }
        torch.manual_seed(seeds[0])
        tokenizer = self._processor.tokenizer
        with torch.inference_mode():
            generated = self._model.generate(
                **moved,
                **settings,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = generated[:, batch["input_ids"].shape[1] :]
        ends = self._ends()
        answers = []
        for row in new.tolist():
            whole = len(row) < sampling.max_new_tokens or any(token in ends for token in row)
            answers.append(answer_of(self._decode(row), not whole, thinking))
        return [answers[at : at + sampling.count] for at in range(0, len(answers), sampling.count)]

    def _texts(self, questions: Sequence[str]) -> list[str]:
        """The prompts, behind which a model does not think where its template can say so."""
        switch = "enable_thinking"
        options = {switch: False} if switch in str(self._processor.chat_template) else {}
        return [
            self._processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
            for question in questions
        ]

    def _inputs(self, texts: Sequence[str], pictures: Sequence[Image]) -> dict[str, Any]:
        start = self._processor.tokenizer.bos_token
        # A template that writes the first token itself would have it twice.
        written = bool(start) and texts[0].startswith(start)
        return dict(
            self._processor(
                text=texts,
                images=[[picture] for picture in pictures],
                padding=True,
                return_tensors="pt",
                **({"add_special_tokens": False} if written else {}),
            )
        )

    def _add_noise(self, batch: dict[str, Any], step: int, seed: int) -> None:
        import torch

        signal, noise = noise_level(step)
        names = [
            name
            for name, value in batch.items()
            if name.startswith("pixel_values") and hasattr(value, "to") and value.is_floating_point()
        ]
        if not names:
            raise UsageError(
                "this model's processor gives no pixel values that noise could be added to: choose --distort "
                "blur, crop or blank."
            )
        generator = torch.Generator().manual_seed(seed)
        for name in names:
            values = batch[name].float()
            drawn = _drawn(values, self._frames(), generator)
            batch[name] = signal * values + noise * drawn

    def _frames(self) -> int:
        """How often each patch of a still picture holds it: a film's models read several frames at once."""
        return int(getattr(self._processor.image_processor, "temporal_patch_size", None) or 1)

    def _decode(self, row: list[int]) -> str:
        """The text, with the marks around thoughts also where they are special tokens."""
        tokenizer = self._processor.tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marks = {
            id_: token.content for id_, token in added.items() if token.special and token.content in MARKS
        }
        text, start = "", 0
        for at, token in enumerate(row):
            if token in marks:
                text += tokenizer.decode(row[start:at], skip_special_tokens=True) + marks[token]
                start = at + 1
        return text + str(tokenizer.decode(row[start:], skip_special_tokens=True))

    def _ends(self) -> set[int]:
        ends: Any = self._model.generation_config.eos_token_id
        ends = self._processor.tokenizer.eos_token_id if ends is None else ends
        return set(ends) if isinstance(ends, list) else {ends}


def _drawn(values: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
    """Normal noise of the values' shape, the same for all copies of a pixel.

    values: with `frames` > 1, (patches, channel x frames x pixels), frames before the channels or behind the
    pixels in some models. The patch's convolution adds the frames up: noise of each one's own would be weaker
    than the picture by the square root of their number.
    """
    import torch

    size = values.shape[-1]
    for outer in (3, 1, size // frames) if frames > 1 else ():
        if values.ndim != 2 or size % (outer * frames):
            continue
        split = values.view(len(values), outer, frames, -1)
        if torch.equal(split, split[:, :, :1].expand_as(split)):
            one = torch.randn(split[:, :, :1].shape, generator=generator)
            return one.expand_as(split).reshape(values.shape)
    return torch.randn(values.shape, generator=generator)


def named(model: str, revision: str | None) -> dict[str, Any]:
    """What tells a model before it is loaded: name and revision asked for, or a folder's content."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return {"model": model, "asked_revision": revision}
    kinds = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
    files = identity((path, path.name) for path in sorted(folder.iterdir()) if path.suffix in kinds)
    # A copy of the folder is the same model.
    return {"model": folder.resolve().name, "files": [entry[:2] + entry[3:] for entry in files]}


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32


def _dtype_argument() -> str:
    """transformers renamed it in 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"
