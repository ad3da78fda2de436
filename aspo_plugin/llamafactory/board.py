"""The fields of ASPO in LLaMA Board: in its RLHF section while the stage is ASPO."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import patch

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
    `pref_loss` and `training_stage` among what it returns.
    """

    @functools.wraps(create_train_tab)
    def create(engine: Any) -> dict[str, Any]:
        import gradio

        fields = _fields(gradio)
        base = engine.manager.get_base_elems
        with patch.object(engine.manager, "get_base_elems", lambda: base() | set(fields.values())):
            elements = create_train_tab(engine)
        with elements["rlhf_tab"], gradio.Row():
            for field in fields.values():
                field.render()
        loss = elements["pref_loss"]
        offered = list(loss.choices)

        def shown(stage: str) -> list[Any]:
            """Fields that a stage reads, losses that it takes."""
            aspo = stage == STAGE
            losses = {"choices": [LOSS], "value": LOSS} if aspo else {"choices": offered}
            return [gradio.update(**losses), *(gradio.update(visible=aspo) for _ in fields)]

        stage = elements["training_stage"]
        stage.change(shown, [stage], [loss, *fields.values()], queue=False)
        return {**elements, **fields}

    return create


def _fields(gradio: Any) -> dict[str, Any]:
    default = AspoSettings()
    hidden = {"visible": False, "render": False}
    return {
        "aspo_alpha": gradio.Slider(minimum=0, maximum=1, value=default.alpha, step=0.05, **hidden),
        "aspo_normalization": gradio.Dropdown(
            choices=list(NORMALIZATIONS), value=default.normalization, **hidden
        ),
        "aspo_similarity_model": gradio.Textbox(**hidden),
    }


def add_texts(locales: dict[str, Any]) -> None:
    """The fields' labels, in every language that the board speaks."""
    for name, by_language in TEXTS.items():
        locales[name] = {
            language: dict(zip(("label", "info"), texts, strict=True))
            for language, texts in by_language.items()
        }


def arguments_of(runner: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """What the tab's fields say, as arguments of a run; an empty text is none."""
    elements = {
        name: runner.manager.get_elem_by_id(f"train.{name}")
        for name in ("pref_beta", "pref_ftx", "pref_loss", *FIELDS)
    }
    values = {name: data[element] for name, element in elements.items()}
    return {name: value for name, value in values.items() if value != ""}
