"""From sentence spans in a text to one sentence id per trained token.

`sentence_ids`    the ids, from the spans and the tokens that were trained
`token_bytes`     the bytes that each token of a tokenizer stands for
"""
