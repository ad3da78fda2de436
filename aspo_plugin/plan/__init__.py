"""`aspo-plan RECIPE`: how much memory a recipe needs on each GPU, before anything is downloaded."""

from __future__ import annotations

from .cli import main

__all__ = ["main"]
