"""Measurements behind the figures in the docs. Each module runs with `python -m benchmarks.<name>`."""
