"""`aspo-data push`: under way."""


def push() -> None:
    """Under way."""
    raise NotImplementedError
