"""The name under which installations made before `aspo_autoload` still enter; the hook itself is there.

Can go with the next release: an installation made from then on knows the new name only.
"""

from __future__ import annotations

try:
    from aspo_autoload import autoload
except ImportError:  # an editable installation of before maps only the packages it knew
    import importlib.util
    import sys
    from pathlib import Path

    _spec = importlib.util.spec_from_file_location(
        "aspo_autoload", Path(__file__).resolve().parent.parent / "aspo_autoload.py"
    )
    assert _spec is not None and _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["aspo_autoload"] = _module
    _spec.loader.exec_module(_module)
    autoload = _module.autoload

__all__ = ["autoload"]
