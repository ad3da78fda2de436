"""The fields of ASPO in LLaMA Board: in its RLHF section while the stage is ASPO."""

from __future__ import annotations

import functools
import sys
from typing import Any

from aspo_plugin.config import NORMALIZATIONS, AspoSettings

STAGE = "ASPO"  # as the board lists it
LOSS = "sigmoid"  # the only one that a run takes
FIELDS = ("aspo_alpha", "aspo_normalization", "aspo_similarity_model")
# Label and explanation by the board's languages.
TEXTS: dict[str, dict[str, tuple[str, str]]] = {
    "aspo_alpha": {
        "en": ("Alpha of ASPO", "1 weights sentences by their similarity to the image, 0 by perplexity."),
        "ru": ("Альфа ASPO", "1: вес предложений по сходству с изображением, 0: по перплексии."),
        "zh": ("ASPO alpha", "1 按句子与图像的相似度加权，0 按困惑度加权。"),
        "ko": ("ASPO 알파", "1은 이미지와의 유사도로, 0은 퍼플렉서티로 문장에 가중치를 줍니다."),
        "ja": ("ASPO アルファ", "1 は画像との類似度、0 はパープレキシティで文を重み付けします。"),
    },
    "aspo_normalization": {
        "en": ("Normalization of ASPO", "What keeps a reward from growing with its weights."),
        "ru": ("Нормализация ASPO", "Что не даёт награде расти вместе с весами."),
        "zh": ("ASPO 归一化", "防止奖励随权重增大的方式。"),
        "ko": ("ASPO 정규화", "보상이 가중치와 함께 커지지 않도록 하는 방법."),
        "ja": ("ASPO 正規化", "報酬が重みとともに増えるのを防ぐ方法。"),
    },
    "aspo_similarity_model": {
        "en": ("Similarity model", "Scores a dataset without similarities (CLIP's id or path); else empty."),
        "ru": ("Модель сходства", "Оценивает набор без сходств (имя или путь CLIP); иначе пусто."),
        "zh": ("相似度模型", "为没有相似度的数据集打分（CLIP 的名称或路径），否则留空。"),
        "ko": (
            "유사도 모델",
            "유사도가 없는 데이터셋을 채점합니다(CLIP 이름 또는 경로). 아니면 비워 둡니다.",
        ),
        "ja": ("類似度モデル", "類似度のないデータセットを採点します（CLIP の名前かパス）。なければ空欄。"),
    },
}


def with_fields(create_train_tab: Any) -> Any:
    """The host's function that makes the tab, which then has the fields, and gives them to its buttons.

    Relies on: `engine.manager.get_base_elems()` beginning the inputs of the tab's buttons, and `rlhf_tab`,
    `pref_loss` and `training_stage` among what it returns. On a host without them the board is as before, the
    stage ASPO included, and one line says why.
    """

    @functools.wraps(create_train_tab)
    def create(engine: Any) -> dict[str, Any]:
        import gradio

        try:
            fields = _fields(gradio)
            base = frozenset(engine.manager.get_base_elems())
        except Exception as error:
            _without_fields(error)
            plain: dict[str, Any] = create_train_tab(engine)
            return plain
        engine.manager.get_base_elems = lambda: {*base, *fields.values()}
        try:
            elements: dict[str, Any] = create_train_tab(engine)
        finally:
            del engine.manager.get_base_elems
        try:
            _place(gradio, fields, elements)
        except Exception as error:
            _without_fields(error)
            for field in fields.values():
                if not field.is_rendered:  # the buttons have it among their inputs
                    field.render()
        return {**elements, **fields}

    return create


def _place(gradio: Any, fields: dict[str, Any], elements: dict[str, Any]) -> None:
    """The fields into the RLHF section, which follows the stage from now on."""
    section, loss, stage = elements["rlhf_tab"], elements["pref_loss"], elements["training_stage"]
    offered = list(loss.choices)
    with section, gradio.Row():
        for field in fields.values():
            field.render()

    def follow(chosen: str) -> list[Any]:
        """Section, losses and fields as the chosen stage needs them."""
        aspo = chosen == STAGE
        losses = {"choices": [LOSS], "value": LOSS} if aspo else {"choices": offered}
        opened = {"open": True} if aspo else {}
        updates = [gradio.update(**opened), gradio.update(**losses)]
        return updates + [gradio.update(visible=aspo) for _ in fields]

    stage.change(follow, [stage], [section, loss, *fields.values()], queue=False)


def _without_fields(error: Exception) -> None:
    sys.stderr.write(
        f"aspo-plugin could not add ASPO's fields to LLaMA Board ({error!r}): give `aspo_alpha` and the "
        "other settings as extra arguments.\n"
    )


def _fields(gradio: Any) -> dict[str, Any]:
    default = AspoSettings()
    hidden = {"visible": False, "render": False}
    return {
        "aspo_alpha": gradio.Slider(minimum=0, maximum=1, value=default.alpha, step=0.05, **hidden),
        "aspo_normalization": gradio.Dropdown(
            choices=list(NORMALIZATIONS), value=default.normalization, **hidden
        ),
        "aspo_similarity_model": gradio.Textbox(max_lines=1, **hidden),
    }


def add_texts(locales: dict[str, Any]) -> None:
    """The fields' labels in every language that the board speaks, in English where we know no words."""
    languages = {language for texts in locales.values() for language in texts}
    for name, texts in TEXTS.items():
        locales[name] = {
            language: dict(zip(("label", "info"), texts.get(language, texts["en"]), strict=True))
            for language in languages
        }


def arguments_of(runner: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """What the tab's fields say, as arguments of a run; an empty text is none."""
    values = {}
    for name in ("pref_beta", "pref_ftx", "pref_loss", *FIELDS):
        try:
            values[name] = data[runner.manager.get_elem_by_id(f"train.{name}")]
        except KeyError:
            if name not in FIELDS:
                sys.stderr.write(f"LLaMA Board has no field {name!r}: give it as an extra argument.\n")
    return {name: value for name, value in values.items() if value != ""}
