"""Models whose repository brings code of its own. It is a stranger's, so that it is never run."""

from __future__ import annotations


def refused_code(model: str, error: BaseException) -> str | None:
    """What to do where transformers, told not to run `model`'s own code, raised `error` for want of it.

    None where the error is another one.
    """
    if "custom code" not in str(error) and "trust_remote_code" not in str(error):
        return None
    from transformers import __version__

    return (
        f"{model} needs code from its own repository, which is never run here, as transformers {__version__} "
        "has no class of it: take a model that it has a class of, or install a version that has this one."
    )
