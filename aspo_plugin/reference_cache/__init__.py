"""Reference log-probs on disk, computed once and reused over epochs and runs.

`store`           the folder: rows by key, written by any process
`fill`            computing the rows that are missing, before training
`fingerprint`     what the numbers depend on besides tokens and images
`callback`        the cache in a trainer built on that of `transformers`
"""
