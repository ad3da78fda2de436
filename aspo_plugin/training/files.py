"""Names of what a run leaves in its output folder, for readers that need no torch."""

SAMPLES = "aspo_samples.jsonl"  # `training.samples`
RUN = "aspo_run.json"  # `training.start`
REJECTED = "aspo_rejected.jsonl"  # `training.refused_rows`
KEPT = "aspo_rows.json"  # beside prepared data: what was refused while it was made
ARGS = "aspo_args.json"  # `llamafactory.model_card`
CONFIG = "aspo_config.yaml"  # `axolotl.config`
