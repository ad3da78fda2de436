"""The method as pure functions over torch tensors; imports neither a host nor TRL.

`weights`     sentence weights and the normalisation factor
`loss`        the ASPO loss of a batch of pairs
`alignment`   from sentence spans in a text to one sentence id per trained token
`logprobs`    per-token log-probs of the responses, the one function every trainer calls
`metrics`     what a researcher wants to see, accumulated without synchronising
"""
