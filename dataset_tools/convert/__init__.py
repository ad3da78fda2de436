"""`aspo-data convert`: a source dataset to a sentence-annotated one, as a stream, resumable."""
