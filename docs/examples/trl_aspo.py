"""ASPO with TRL alone: one script from a model and a dataset to a trained adapter.

    python docs/examples/trl_aspo.py --model Qwen/Qwen2.5-VL-7B-Instruct --dataset my-folder --output out

The dataset is a folder or Hub id made by `aspo-data`, or any preference set in TRL's shape. Without
similarities, add `--similarity-model openai/clip-vit-large-patch14-336` or `--alpha 0`.
"""

from __future__ import annotations

import argparse

from datasets import load_dataset
from peft import LoraConfig

from aspo_plugin.trl import AspoConfig, AspoTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--similarity-model")
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--learning-rate", type=float, default=5e-6)
    parser.add_argument("--cpu", action="store_true", help="train on the CPU in float32, for a first look")
    options = parser.parse_args()

    args = AspoConfig(
        options.output,
        aspo_alpha=options.alpha,
        aspo_similarity_model=options.similarity_model,
        beta=0.1,
        max_length=2048,  # image tokens included; longer responses are cut, images never
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        learning_rate=options.learning_rate,
        max_steps=options.max_steps,
        logging_steps=1,
        bf16=not options.cpu,
        use_cpu=options.cpu,
        report_to=[],
    )
    trainer = AspoTrainer(
        options.model,
        args=args,
        train_dataset=load_dataset(options.dataset, split="train"),
        # With an adapter the reference is the model without it: no second copy in memory.
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=r".*language_model.*\.(q|k|v|o)_proj"),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
