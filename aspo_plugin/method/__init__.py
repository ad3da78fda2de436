"""The method (arXiv 2505.19100) as pure functions over torch tensors; imports nothing else.

`weights`         sentence weights and the normalisation factor
`coefficients`    what each sentence's log-ratio is multiplied by
`loss`            the ASPO loss of a batch of pairs
`sentence_sums`   sums of per-token values over the sentences of each response
`metrics`         what a researcher wants to see, accumulated without synchronising
"""
