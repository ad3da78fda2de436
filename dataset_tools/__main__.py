"""`python -m dataset_tools`, the form that torchrun and accelerate launch start."""

from dataset_tools.cli import main

main()
