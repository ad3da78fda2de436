"""`aspo-data stats`: under way."""


def stats() -> None:
    """Under way."""
    raise NotImplementedError
