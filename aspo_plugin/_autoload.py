"""Runs at `import torch` in every process (entry point `torch.backends`)."""


def autoload() -> None:
    """Install the lazy import hook of the LLaMA-Factory adapter."""
