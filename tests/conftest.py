"""What every suite shares."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples in every run, so that a failure can be repeated; ASPO_EXPLORE=1 looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("explore" if os.environ.get("ASPO_EXPLORE") else "repeatable")
