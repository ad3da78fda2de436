"""The bytes that each token of a tokenizer stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, proxy

# A byte that UTF-8 never contains stands for tokens without text (special tokens, unknown characters), so
# that no response text can be found inside them.
NO_TEXT = b"\xff"

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KNOWN: WeakKeyDictionary[Any, TokenBytes] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: printable bytes as themselves, the others
    as the characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return table


class TokenBytes:
    """Looks up and remembers the bytes of token ids: byte-level BPE, SentencePiece-like with or without byte
    fallback (`▁` for a space, `<0x0A>` for a byte), added tokens; other tokenizers by decoding one id."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = proxy(tokenizer)  # remembered by tokenizer: must not keep it alive
        self._added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        self._special = set(tokenizer.all_special_ids)
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._kind = _kind(tokenizer)
        self._memory: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        """The bytes of one token; `NO_TEXT` for a special or unknown one."""
        known = self._memory.get(token_id)
        if known is None:
            known = self._memory[token_id] = self._find(token_id)
        return known

    def leading_template(self, token_ids: Sequence[int]) -> int:
        """How many bytes the leading added tokens (special or not) and white space take."""
        total = 0
        for token_id in token_ids:
            piece = self(token_id)
            if token_id == self._unknown:  # text, only of characters that the tokenizer does not know
                return total
            if token_id not in self._added and piece.strip() not in (b"", NO_TEXT):
                rest = piece.lstrip()
                return total + len(piece) - len(rest)
            total += len(piece)
        return total

    def _find(self, token_id: int) -> bytes:
        if token_id in self._special or token_id == self._unknown or token_id < 0:
            return NO_TEXT
        if token_id in self._added:
            return self._added[token_id].encode("utf-8", "replace")
        if self._kind == "decoded":
            text: str = self._tokenizer.decode([token_id])
            return text.encode("utf-8", "replace")
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:  # an id of the padded embedding that no token has
            return NO_TEXT
        if isinstance(piece, bytes):
            return piece
        if self._kind == "byte_level":
            table = _byte_of_character()
            if all(character in table for character in piece):
                return bytes(table[character] for character in piece)
        elif (byte := _BYTE_TOKEN.fullmatch(piece)) is not None:
            return bytes([int(byte.group(1), 16)])
        found: bytes = piece.replace("▁", " ").encode("utf-8", "replace")
        return found


def _kind(tokenizer: Any) -> str:
    """`byte_level`, `pieces` or `decoded`, from the tokenizer's own decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.decoder is not None:
        decoder = backend.decoder.__getstate__()
        if b"ByteLevel" in decoder:
            return "byte_level"
        if b"Metaspace" in decoder or "▁".encode() in decoder or b"\\u2581" in decoder:
            return "pieces"
        return "decoded"
    if hasattr(tokenizer, "byte_decoder"):
        return "byte_level"
    return "pieces" if hasattr(tokenizer, "sp_model") else "decoded"


def token_bytes(tokenizer: Any) -> TokenBytes:
    """The (remembered) lookup of this tokenizer."""
    found = _KNOWN.get(tokenizer)
    if found is None:
        found = _KNOWN[tokenizer] = TokenBytes(tokenizer)
    return found
