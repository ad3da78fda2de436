"""`stage: aspo` for LLaMA-Factory. `patches` and `contract` hold the contacts with its private parts."""
