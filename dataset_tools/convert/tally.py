"""What a conversion counts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dataset_tools.dataset.schema import IMAGE_MARKER

# Where the particulars of a row begin: after a colon, in quotes or brackets, or with what no code has.
_PARTICULARS = re.compile(r"[:;'\"`<>()\[\]{}|\\]|[^\x20-\x7e]")


@dataclass
class Tally:
    """Counts of a conversion so far.

    Rows of the source: `read` is `kept_rows` + `refused_rows` + `left_out_rows`, a row counting for the best
    that became of it. Pairs: `rows` were written, `rejected` could not be used, `skipped` were left out on
    purpose.
    """

    read: int = 0
    kept_rows: int = 0
    refused_rows: int = 0
    left_out_rows: int = 0
    rows: int = 0
    text_only: int = 0
    rejected: int = 0
    sentences: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For the record and the state."""
        return {
            "read": self.read,
            "kept_rows": self.kept_rows,
            "refused_rows": self.refused_rows,
            "left_out_rows": self.left_out_rows,
            "rows": self.rows,
            "text_only": self.text_only,
            "rejected": self.rejected,
            "sentences": self.sentences,
            "reasons": dict(sorted(self.reasons.items())),
            "skipped": dict(sorted(self.skipped.items())),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Tally:
        """The counts of a state."""
        return cls(**{**value, "reasons": Counter(value["reasons"]), "skipped": Counter(value["skipped"])})

    def bad_share(self) -> float:
        """Rejected rows among all that were rejected or written."""
        return self.rejected / max(self.rejected + self.rows, 1)


def kind_of_reason(reason: str) -> str:
    """A reason as a code: what our own text says before the row's own begins, numbers as N.

    Codes are counted, recorded and published; a row's text never is.
    """
    named = reason.replace(IMAGE_MARKER, "image")
    own = _PARTICULARS.split(re.sub(r"(UTF-8)|\d+", lambda match: match[1] or "N", named), maxsplit=1)[0]
    return own.strip(" ,.")[:80] or "other"
