"""A model folder with code of its own, as those have that transformers has no class of."""

from __future__ import annotations

import json
from pathlib import Path


def write(folder: Path, ran: Path) -> Path:
    """The folder; whatever loads its code makes the file `ran`."""
    folder.mkdir(parents=True)
    names = {"AutoConfig": "Own", "AutoProcessor": "Own", "AutoModelForCausalLM": "Own"}
    config = {
        "model_type": "own_kind",
        "auto_map": {kind: f"own_code.{name}" for kind, name in names.items()},
        "architectures": ["Own"],
    }
    for file in ("config.json", "processor_config.json"):
        (folder / file).write_text(json.dumps(config))
    (folder / "own_code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own:\n    pass\n")
    return folder
