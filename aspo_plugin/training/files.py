"""Names of what a run leaves in its output folder, for readers that need no torch."""

SAMPLES = "aspo_samples.jsonl"  # `training.samples`
RUN = "aspo_run.json"  # `training.start`
