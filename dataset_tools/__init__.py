"""Sentence-annotated multimodal preference datasets: the `aspo-data` tool and its parts."""
