"""What the site needs beyond docs/.

README is its first page, links that leave docs/ become plain names, and formulas become MathML, which every
browser draws without a script.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def _relinked(text: str, folder: Path) -> str:
    """Links from a page in `folder` as the site has them: docs/x.md as x.md, other files as plain names."""

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (folder / target).resolve()
        if not path.exists():
            return match[0]  # strict mode names it
        docs = ROOT / "docs"
        if path.is_relative_to(docs) and path.is_file():
            return f"[{match['text']}]({path.relative_to(docs).as_posix()}{match['anchor'] or ''})"
        if path == ROOT / "README.md":
            return f"[{match['text']}](index.md{match['anchor'] or ''})"
        return match["text"]

    return _LINK.sub(replace, text)


def on_files(files: Any, config: Any) -> Any:
    """README.md becomes the first page."""
    text = _relinked((ROOT / "README.md").read_text(encoding="utf-8"), ROOT)
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files outside docs/ lose their address."""
    if page.file.src_uri == "index.md":
        return markdown
    return _relinked(markdown, (ROOT / "docs" / page.file.src_uri).parent)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML."""

    def draw(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        return convert(html.unescape(match["latex"]), display=display)

    return _FORMULA.sub(draw, content)
