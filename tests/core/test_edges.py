"""Single lines whose breaking no other test noticed: each test here fails on one such break."""

from __future__ import annotations

import pytest
import torch

from aspo_plugin.alignment.sentence_ids import sentence_ids
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.method.weights import MIN_RANGE, scaled_perplexity, scaled_similarity
from tests.core.test_shared_prefix import TOLERANCE, language_model, token_batch
from tests.support.pairs import plain_logps


@pytest.mark.parametrize("scaled", [scaled_similarity, lambda n, present: 1 - scaled_perplexity(n, present)])
@pytest.mark.parametrize(("spread", "wanted"), [(1e-7, 0.0), (1e-5, 1.0), (5e-4, 1.0)])
def test_a_small_spread_still_counts_and_a_tie_does_not(scaled, spread, wanted):
    """Cosines of a real CLIP often lie within a thousandth: only a range of at most 1e-6 is a tie."""
    assert MIN_RANGE == 1e-6
    values = torch.tensor([[0.0, spread, spread / 2]], dtype=torch.float64)
    found = scaled(values, torch.ones(1, 3, dtype=torch.bool))
    if wanted:
        assert found[0].tolist() == pytest.approx([0.0, 1.0, 0.5], abs=1e-3)
    else:
        assert len(set(found[0].tolist())) == 1  # all alike: no sentence gains on another


class Pieces:
    """A tokenizer whose tokens are given texts, with the little that `token_bytes` asks of one."""

    is_fast = False

    def __init__(self, *pieces: str) -> None:
        self.pieces = list(pieces)
        self.all_special_ids: list[int] = []
        self.added_tokens_decoder: dict[int, str] = {}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(self.pieces[i] for i in ids)


@pytest.mark.parametrize(
    ("text", "spans", "pieces", "expected"),
    [
        # A token of blanks and a letter straddles two sentences: its first non-space character decides.
        ("Ab.  Cd.", [(0, 3), (5, 8)], ["Ab.", "  C", "d."], [0, 1, 1]),
        # The first span ends in its own blanks: the token that holds them and the next letter goes on.
        ("Ab.  Cd.", [(0, 5), (5, 8)], ["Ab", ".  C", "d."], [0, 0, 1]),
        ("Ab.  Cd.", [(0, 5), (5, 8)], ["Ab.", "  C", "d."], [0, 1, 1]),
        # Blanks alone between two spans belong to the later sentence, inside a span to their own.
        ("Ab.  Cd.", [(0, 3), (5, 8)], ["Ab.", "  ", "Cd."], [0, 1, 1]),
        ("Ab.  Cd.", [(0, 5), (5, 8)], ["Ab.", "  ", "Cd."], [0, 0, 1]),
    ],
)
def test_the_first_character_that_is_no_blank_decides(monkeypatch, text, spans, pieces, expected):
    from aspo_plugin.alignment import sentence_ids as module

    class Lookup:
        def __call__(self, token: int) -> bytes:
            return pieces[token].encode()

        def leading_template(self, ids: list[int]) -> int:
            return 0

    monkeypatch.setattr(module, "token_bytes", lambda tokenizer: Lookup())
    assert sentence_ids(Pieces(*pieces), range(len(pieces)), text, spans) == expected


@pytest.mark.parametrize("reversed_roles", [False, True])
def test_a_reference_of_another_architecture_has_its_own_layout(reversed_roles):
    """The policy's mask and positions must not serve a model that takes them otherwise (a window, say)."""
    models = [
        language_model("Mistral", sliding_window=4),
        language_model("Llama"),
    ]
    policy, reference = reversed(models) if reversed_roles else models
    inputs, wanted = token_batch()
    logps = ResponseLogProbs(self_check=False)
    logps(policy, inputs, wanted)
    found = logps(reference, inputs, wanted)
    assert (found - plain_logps(reference, inputs, wanted)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("policy_shares", [True, False])
def test_the_share_that_is_logged_is_the_policy_s(policy_shares):
    """The reference may go another way, before the policy in a step, or alone in an evaluation's last one."""
    sharing, plain = (
        language_model("Llama"),
        language_model("Lfm2", layer_types=["conv", "full_attention", "conv"]),
    )
    policy, reference = (sharing, plain) if policy_shares else (plain, sharing)
    inputs, wanted = token_batch()
    logps = ResponseLogProbs(self_check=False)
    for _ in range(2):
        logps(reference, inputs, wanted, again=True)
        logps(policy, inputs, wanted)
        assert logps.shared is policy_shares
    logps(reference, inputs, wanted, again=True)
    assert logps.shared is policy_shares
