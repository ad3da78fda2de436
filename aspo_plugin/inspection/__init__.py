"""`aspo inspect`: what a model makes of the sentences of a dataset, before training and after, as a page."""
