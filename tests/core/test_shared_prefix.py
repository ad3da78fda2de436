"""One row per pair gives each response the log-probs and gradients that it has in a row of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aspo_plugin.logprobs import attention, pair_layout
from aspo_plugin.logprobs.pair_batch import IMAGES_ONCE, PairBatch, images_once, images_twice
from aspo_plugin.logprobs.pair_layout import plan, to_layout
from aspo_plugin.logprobs.response import ResponseLogProbs
from tests.support.backbones import SHARES, VISION_LANGUAGE, today
from tests.support.pairs import padded_rows, pair_batch, plain_logps

TOLERANCE = 1e-5


def gradients(model, logps):
    """Of an arbitrary function of the log-probs, by parameter."""
    model.zero_grad()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(3))
    (logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        # Keys' biases and the like have a gradient of exactly 0 up to rounding: measure against the largest.
        assert (found[name] - value).norm() <= TOLERANCE * (value.norm() + 0.1 * largest), name


def assert_equal_to_plain(model, batch, logps=None):
    expected = plain_logps(model, images_twice(batch.inputs), batch.response_mask)
    expected_gradients = gradients(model, expected)
    logps = logps or ResponseLogProbs(self_check=False)
    found = logps(model, batch.inputs, batch.response_mask)
    assert (found - expected).abs().max() <= TOLERANCE
    assert_same_gradients(gradients(model, found), expected_gradients)
    return logps


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*VISION_LANGUAGE, *(n for n in today() if n in SHARES), "text"])
def test_every_architecture(backbones, name, implementation):
    options = {"attn_implementation": {"text_config": implementation}} if name != "text" else {}
    model, processor = backbones(name, **options)
    if name == "text":
        model.set_attn_implementation(implementation)
    assert model.config.get_text_config()._attn_implementation == implementation
    batch = pair_batch(model, processor, pairs=3, images=name != "text")
    logps = assert_equal_to_plain(model, batch)
    assert logps.report() == {"pairs/shared": 3}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "idefics3", "mllama"])
def test_each_image_is_encoded_once(backbones, name):
    model, processor = backbones(name)
    batch = pair_batch(model, processor, pairs=2)
    once = {**batch.inputs, **images_once(batch.inputs)}
    assert once[IMAGES_ONCE] and len(once["pixel_values"]) == len(batch.inputs["pixel_values"]) // 2
    sizes = []
    vision = next(
        m for n, m in model.named_modules() if n.endswith(("vision_tower", "visual", "vision_model"))
    )
    vision.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(next(iter([*args, *kwargs.values()])).shape[0]),
        with_kwargs=True,
    )
    found = [ResponseLogProbs(self_check=False)(model, x, batch.response_mask) for x in (once, batch.inputs)]
    plain = ResponseLogProbs(shared_prefix="false")(model, once, batch.response_mask)
    assert torch.equal(found[0], found[1])
    assert (found[0] - plain).abs().max() <= TOLERANCE
    assert sizes[0] == sizes[1] == sizes[2] / 2


def test_text_rows_among_rows_with_images(backbones):
    """A pair without an image shares its prompt beside a pair with one."""
    model, processor = backbones("qwen2_5_vl")
    batch = pair_batch(model, processor, pairs=2)
    image = model.config.image_token_id
    grids = batch.inputs["image_grid_thw"]
    patches = int(grids[0].prod())
    keep = batch.inputs["input_ids"][[1, 3]] != image
    for key in ("input_ids", "mm_token_type_ids", "attention_mask"):
        rows = [batch.inputs[key][0], batch.inputs[key][1][keep[0]]]
        rows += [batch.inputs[key][2], batch.inputs[key][3][keep[1]]]
        batch.inputs[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    masks = [batch.response_mask[0], batch.response_mask[1][keep[0]]]
    masks += [batch.response_mask[2], batch.response_mask[3][keep[1]]]
    batch.response_mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
    batch.inputs["image_grid_thw"] = grids[[0, 0]]
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"][:patches].repeat(2, 1)
    assert assert_equal_to_plain(model, batch).report() == {"pairs/shared": 2}


# --- other language models and their windows --------------------------------------------------------

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
)  # fmt: skip


def language_model(kind, **config):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **config})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in model.parameters():  # sharper attention than at initialisation, so that faults show
        parameter.data *= 3
    return model


def token_batch(pairs=3, seed=0, prompt=(5, 12), response=(2, 9)):
    """Random tokens, padded on the right: (inputs, response_mask)."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(3, 64, random.integers(*prompt)) for _ in range(pairs)]
    rows = [np.concatenate([p, random.integers(3, 64, random.integers(*response))]) for p in prompts * 2]
    return padded_rows(prompts, rows)


class Batch:
    def __init__(self, inputs, response_mask):
        self.inputs, self.response_mask = inputs, response_mask


@pytest.mark.parametrize(
    "kind, config",
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 5}),
        ("Mistral", {"sliding_window": None}),
        ("Qwen3", {}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("Gemma", {}),
        ("Gemma2", {"sliding_window": 5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
        ("Gemma3", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    ],
)
def test_language_models_and_windows(kind, config):
    kind = {"Gemma3": "Gemma3Text"}.get(kind, kind)
    if kind == "Gemma3Text":
        import transformers

        torch.manual_seed(0)
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**{**SMALL, **config})).eval()
    else:
        model = language_model(kind, **config)
    logps = assert_equal_to_plain(model, Batch(*token_batch()))
    assert logps.report() == {"pairs/shared": 3}


def test_left_padding_and_no_attention_mask():
    model = language_model("Llama")
    inputs, wanted = token_batch()
    lengths = inputs["attention_mask"].sum(1)
    width = inputs["input_ids"].shape[1]
    order = (torch.arange(width) - (width - lengths)[:, None]) % width
    left = Batch({k: v.gather(1, order) for k, v in inputs.items()}, wanted.gather(1, order))
    assert assert_equal_to_plain(model, left).report() == {"pairs/shared": 3}

    prompt, chosen, rejected = torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(0))
    ids = torch.stack([torch.cat([prompt, chosen]), torch.cat([prompt, rejected])])
    whole = Batch({"input_ids": ids}, (torch.arange(12) >= 6).expand(2, 12).clone())
    assert assert_equal_to_plain(model, whole).report() == {"pairs/shared": 1}


def test_trained_tokens_with_gaps():
    """A response may hold tokens that are not trained; they are still seen by those after them."""
    model = language_model("Llama")
    inputs, wanted = token_batch(response=(5, 9))
    for row in wanted:
        row[int(row.long().argmax()) + 2] = False
    assert assert_equal_to_plain(model, Batch(inputs, wanted)).report() == {"pairs/shared": 3}


# --- the layout itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_token_sees_what_it_sees_in_its_own_row(seed):
    """Against the definition, token by token, windows included."""
    inputs, wanted = token_batch(seed=seed)
    ids, seen, mask = (x.numpy() for x in (inputs["input_ids"], inputs["attention_mask"].bool(), wanted))
    layout = to_layout(plan(ids, seen, mask), torch.device("cpu"))
    window = 4
    masks = {
        "full_attention": attention.seen(layout, None),
        "sliding_attention": attention.seen(layout, window),
    }
    pairs, width = len(ids) // 2, ids.shape[1]
    for pair in range(pairs):
        slots = [slot for slot, kind in enumerate(layout.segment[pair]) if kind != pair_layout.PADDING]
        for query in slots:
            row, column = divmod(int(layout.source[pair, query]), width)
            own = {(row, c) for c in range(column + 1)}
            prompt = int(mask[row].argmax())
            own = {
                (pair if c < prompt else row, c) for row, c in own
            }  # the prompt is there as the chosen row's
            for name, limit in (("full_attention", width), ("sliding_attention", window)):
                visible = {
                    divmod(int(layout.source[pair, key]), width)
                    for key in slots
                    if masks[name][pair, 0, query, key]
                }
                assert visible == {(r, c) for r, c in own if column - c < limit}
        padding = torch.tensor(
            [s for s, kind in enumerate(layout.segment[pair]) if kind == pair_layout.PADDING]
        )
        for name in masks:
            assert masks[name][pair, 0].any(1).all()
            if len(padding):
                assert not masks[name][pair, 0][torch.tensor(slots)][:, padding].any()


# --- what cannot be shared goes the plain way, counted ------------------------------------------------


def test_other_prompts_go_the_plain_way():
    model = language_model("Llama")
    inputs, wanted = token_batch()
    inputs["input_ids"][4, 2] = (inputs["input_ids"][1, 2] + 1) % 60 + 3
    logps = assert_equal_to_plain(model, Batch(inputs, wanted))
    assert logps.report() == {"pairs/plain": 3, "the prompt tokens of chosen and rejected differ": 1}


def test_other_images_go_the_plain_way(backbones):
    model, processor = backbones("llava")
    batch = pair_batch(model, processor)
    batch.inputs["pixel_values"] = batch.inputs["pixel_values"].clone()
    batch.inputs["pixel_values"][3] += 0.5
    logps = assert_equal_to_plain(model, batch)
    assert logps.report() == {"pairs/plain": 2, "the images of chosen and rejected differ": 1}


def test_a_host_s_placeholder_image_goes_the_plain_way(backbones):
    """LLaMA-Factory gives a batch without images one that nobody attends to, at the end of row 0."""
    model, processor = backbones("llava")
    batch = pair_batch(model, processor, images=False)
    image = pair_batch(model, processor, pairs=1)
    marks = image.inputs["input_ids"][0][image.inputs["input_ids"][0] == model.config.image_token_id]
    width = batch.inputs["input_ids"].shape[1]
    for key, value in batch.inputs.items():
        batch.inputs[key] = torch.nn.functional.pad(value, (0, len(marks)))
    batch.inputs["input_ids"][0, width:] = marks
    batch.inputs["pixel_values"] = image.inputs["pixel_values"][:1]
    batch.response_mask = torch.nn.functional.pad(batch.response_mask, (0, len(marks)))
    logps = assert_equal_to_plain(model, batch)
    assert logps.report() == {"pairs/plain": 2, "the images of chosen and rejected differ": 1}


def test_an_unknown_input_goes_the_plain_way():
    model = language_model("Llama")
    inputs, wanted = token_batch()
    inputs["document_lengths"] = torch.tensor([3])
    logps = assert_equal_to_plain(model, Batch(inputs, wanted))
    assert logps.report()["the model input document_lengths is not known here"] == 1


@pytest.mark.parametrize(
    "kind, config, reason",
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "conv, which cannot share a prefix"),
        ("Llama4Text", {"intermediate_size_mlp": 48, "num_local_experts": 2}, "chunked_attention"),
        ("Mamba", {"num_heads": 4}, "mamba"),
    ],
)
def test_models_that_cannot_share_say_why(kind, config, reason):
    import transformers

    torch.manual_seed(0)
    small = {key: value for key, value in SMALL.items() if key != "head_dim" or kind.startswith("L")}
    made = getattr(transformers, f"{kind}Config")(**{**small, **config})
    name = {"Llama4Text": "Llama4ForCausalLM"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, name)(made).eval()
    assert reason in ResponseLogProbs().why_not(model)
    with pytest.raises(ValueError, match="shared_prefix is true, but"):
        ResponseLogProbs(shared_prefix="true").why_not(model)
    inputs, wanted = token_batch(pairs=1)
    if kind == "Llama4Text":  # its forward keeps a fused expert layer that trains no gradients alike
        return
    logps = ResponseLogProbs()
    found = logps(model, inputs, wanted)
    assert (found - plain_logps(model, inputs, wanted)).abs().max() <= TOLERANCE
    assert logps.pairs == {"plain": 1}


def test_switched_off():
    logps = ResponseLogProbs(shared_prefix="false")
    assert_equal_to_plain(language_model("Llama"), Batch(*token_batch()), logps)
    assert logps.report() == {"pairs/plain": 3, "switched off (shared_prefix: false)": 1}


def test_images_once_and_twice(backbones):
    model, processor = backbones("idefics3")
    batch = pair_batch(model, processor).inputs
    once = images_once(batch)
    back = images_twice(once)
    assert IMAGES_ONCE not in back and back.keys() == batch.keys()
    assert all(torch.equal(back[key], batch[key]) for key in batch)
    assert images_twice(batch) == batch


def test_positions_that_cannot_be_known_go_the_plain_way(backbones):
    """Older processors give no mm_token_type_ids, from which the grid's positions follow."""
    model, processor = backbones("qwen2_5_vl")
    batch = pair_batch(model, processor)
    del batch.inputs["mm_token_type_ids"]
    logps = ResponseLogProbs(self_check=False)
    prepared = PairBatch(model, batch.inputs, batch.response_mask, logps._architecture(model))
    assert prepared.layout is None and "mm_token_type_ids" in prepared.reason
