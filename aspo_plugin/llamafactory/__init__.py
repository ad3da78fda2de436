"""`stage: aspo` for LLaMA-Factory. `patches` and `contract` hold every contact with its private parts."""
