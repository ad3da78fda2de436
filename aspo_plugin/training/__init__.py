"""What the trainers of all hosts share: the step, its reference, refusals, and what a run checks and leaves.

docs/architecture.md has a line on each file.
"""
