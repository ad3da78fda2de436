"""`aspo-data generate`: preference pairs of a model's own answers."""
