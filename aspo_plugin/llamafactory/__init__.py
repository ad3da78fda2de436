"""`stage: aspo` for LLaMA-Factory. `hooks` holds every contact with the host's private parts."""
