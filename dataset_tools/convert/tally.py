"""What a conversion counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Counts of a conversion so far."""

    read: int = 0
    rows: int = 0
    rejected: int = 0
    sentences: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For the record and the state."""
        return {
            "read": self.read,
            "rows": self.rows,
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
    """A reason without the particulars of its row, for counting: what stands before a colon or a quote."""
    return reason.partition(":")[0].partition(" '")[0]
