"""`aspo-data pull`: under way."""


def pull() -> None:
    """Under way."""
    raise NotImplementedError
