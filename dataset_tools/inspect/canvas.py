"""One drawing, two kinds of file: SVG, which follows the reader's light or dark page, and PNG."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Ink = Literal["ink", "pale", "line", "chosen", "rejected", "problem"]
LIGHT = {
    **{"paper": "#ffffff", "ink": "#23262c", "pale": "#626872", "line": "#dee1e6"},
    **{"chosen": "#2e7d50", "rejected": "#c44d3c", "problem": "#eed6aa"},
}
DARK = {
    **{"paper": "#15171a", "ink": "#e4e6ea", "pale": "#a2a8b3", "line": "#3a3f48"},
    **{"chosen": "#5fbf86", "rejected": "#ee8672", "problem": "#6b5320"},
}


class Canvas(Protocol):
    """What a chart is drawn on; coordinates in pixels from the upper left corner."""

    def bar(self, x: float, y: float, width: float, height: float, ink: Ink) -> None: ...

    def rule(self, x: float, y: float, to_x: float, to_y: float, ink: Ink) -> None: ...

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        ink: Ink = "ink",
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        """A line of text, its middle at `y`; `anchor` is start, middle or end; `turned` reads upwards."""

    def save(self, path: Path) -> None: ...


class Svg:
    """A canvas written as SVG."""

    def __init__(self, width: int, height: int, title: str):
        self._size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        self._title = title
        self._parts: list[str] = []

    def bar(self, x: float, y: float, width: float, height: float, ink: Ink) -> None:
        self._parts.append(
            f'<rect class="{ink}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        )

    def rule(self, x: float, y: float, to_x: float, to_y: float, ink: Ink) -> None:
        self._parts.append(f'<line class="{ink}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        ink: Ink = "ink",
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self._parts.append(
            f'<text class="{ink}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'dominant-baseline="central"{turn}>{escape(text)}</text>'
        )

    def save(self, path: Path) -> None:
        def style(colours: dict[str, str]) -> str:
            inks = "".join(
                f".{name} {{ fill: {value}; stroke: none }} line.{name} {{ stroke: {value} }} "
                for name, value in colours.items()
            )
            return inks.strip()

        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {self._size} role="img">\n'
            f"<title>{escape(self._title)}</title>\n<style>text {{ font-family: system-ui, sans-serif }} "
            f"{style(LIGHT)}\n@media (prefers-color-scheme: dark) {{ {style(DARK)} }}</style>\n"
            '<rect class="paper" width="100%" height="100%"/>\n' + "\n".join(self._parts) + "\n</svg>\n",
            encoding="utf-8",
        )


class Png:
    """A canvas drawn by Pillow on white paper, readable on any page."""

    def __init__(self, width: int, height: int, title: str):
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (width, height), LIGHT["paper"])
        self._pen: ImageDraw = ImageDraw.Draw(self._image)

    def bar(self, x: float, y: float, width: float, height: float, ink: Ink) -> None:
        self._pen.rectangle((x, y, x + max(width - 1, 0), y + max(height - 1, 0)), fill=LIGHT[ink])

    def rule(self, x: float, y: float, to_x: float, to_y: float, ink: Ink) -> None:
        self._pen.line((x, y, to_x, to_y), fill=LIGHT[ink])

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        ink: Ink = "ink",
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(size)
        if not turned:
            place = {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
            self._pen.text((x, y), text, font=font, fill=LIGHT[ink], anchor=place)
            return
        length = round(self._pen.textlength(text, font=font)) + 4
        label = Image.new("RGB", (length, size + 8), LIGHT["paper"])
        ImageDraw.Draw(label).text((length / 2, size / 2 + 4), text, font=font, fill=LIGHT[ink], anchor="mm")
        label = label.transpose(Image.Transpose.ROTATE_90)
        self._image.paste(label, (round(x - label.width / 2), round(y - label.height / 2)))

    def save(self, path: Path) -> None:
        self._image.save(path)
