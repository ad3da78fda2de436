"""What a host's schema has to say of recipes, right and wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
# Settings that are taken, and some that are refused.
RIGHT: list[dict[str, Any]] = [
    {"alpha": 0}, {"alpha": 1.0}, {"normalization": "reward"}, {"weighting": "centred", "weight_scale": 1},
    {"weight_rejected": True}, {"similarity_model": "openai/clip"}, {"shared_prefix": True},
    {"shared_prefix": "auto"}, {"reference_cache": "cache"}, {"log_samples": 3}, {"log_samples": 0},
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    {"alpha": 2}, {"alpha": -0.1}, {"alpha": "half"}, {"alpha": True}, {"normalization": "rewards"},
    {"weighting": "papers"}, {"weighting": "centred", "weight_scale": 3}, {"weight_rejected": "yes"},
    {"similarity_model": ""}, {"shared_prefix": "maybe"}, {"reference_cache": 3}, {"log_samples": -1},
    {"log_samples": 1.5},
]  # fmt: skip


def schema_of(host: str) -> Draft202012Validator:
    """The schema that `aspo schema HOST` prints, in a process of its own."""
    code = "from aspo_plugin.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "schema", host],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def recipes(host: str) -> list[dict[str, Any]]:
    found = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "recipes" / host).glob("*.yaml"))]
    assert len(found) > 10
    return found
