"""Per-token log-probs of the responses, the only thing a preference loss needs from a model.

`response`        the one class every trainer calls
`shared_prefix`   one row per pair, in place of two that repeat the prompt
`architectures`   where a shared prefix is proven equal to two rows
`output_layer`    the output layer, made to return log-probs in place of logits
`chunked`         log-probs from hidden states, a chunk of rows at a time
`vision_tower`    no backward pass through a frozen vision tower
`self_check`      the fast path against the model's own log-probs, on the first batch
"""
