"""`aspo-data preview`: under way."""


def preview() -> None:
    """Under way."""
    raise NotImplementedError
