from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """`backbones(name, **options)`: (model in evaluation mode, processor), a fresh copy."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    from tests.support.backbones import build

    folder = tmp_path_factory.mktemp("backbones")

    def load(name, **options):
        path = build(name, folder / name)
        kinds = (
            (AutoModelForCausalLM, AutoTokenizer)
            if name == "text"
            else (AutoModelForImageTextToText, AutoProcessor)
        )
        return kinds[0].from_pretrained(path, **options).eval(), kinds[1].from_pretrained(path)

    return load
