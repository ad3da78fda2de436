"""`aspo-data score`: under way."""


def score() -> None:
    """Under way."""
    raise NotImplementedError
