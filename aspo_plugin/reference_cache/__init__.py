"""Reference log-probs on disk, computed once and reused over epochs and runs.

`keys`            under what a row is kept: tokens, and what its images, videos and sounds hold
`store`           the folder: rows by key, written by any process
`fill`            computing the rows that are missing, before training
`fingerprint`     what the numbers depend on besides tokens and media

The trainers use it through `training.cached_reference`.
"""
