"""Where tests leave what a person should look at: pictures of pages, and what terminals showed."""

from __future__ import annotations

import os
from pathlib import Path

ARTIFACTS = Path(os.environ.get("ASPO_ARTIFACTS") or Path(__file__).resolve().parents[2] / ".artifacts")
