"""Per-token log-probs of the responses, the only thing a preference loss needs from a model.

`response`        the one class every trainer calls
`pair_batch`      a batch of pairs as the model takes it: one row per pair, in place of two
`pair_layout`     where each token goes in such a row
`attention`       its mask, and what stands for it where no mask is needed
`varlen`          attention of many problems in one call of a flash kernel
`architectures`   where a shared prefix is proven equal to two rows
`trial`           the same for a model that nobody listed, proven on a small copy of it (`small_copy`)
`output_layer`    the output layer, made to return log-probs in place of logits
`chunked`         log-probs from hidden states, a chunk of rows at a time
`vision_tower`    no backward pass through a frozen vision tower
`self_check`      the fast path against the model's own log-probs, on the first batch
"""
