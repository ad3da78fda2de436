"""What a run is told whose weighting is `given` and whose data gives no numbers, in every host."""

from __future__ import annotations


def no_numbers(name: str, side: str = "chosen", setting_name: str = "aspo_{}") -> ValueError:
    """The error for a dataset, called `name`, without one number for the sentences of its `side` answers.

    `setting_name` formats a setting as its user writes it.
    """
    weighting, rejected = setting_name.format("weighting"), setting_name.format("weight_rejected")
    out = f", or leave `{rejected}` out" if side == "rejected" else ""
    return ValueError(
        f"{name} has no number for a sentence of its {side} answers (column {side}_similarity), and "
        f"`{weighting}` is given, which takes these numbers for the weights. Write one for each sentence (1 "
        'for all of them is plain DPO; docs/method.md, "Weights of your own"), or choose another '
        f"`{weighting}`{out}."
    )
