"""The preview page without a browser: which rows come, that nothing is loaded, that no text is markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.inspect.preview import write_preview
from tests.support import converted, data


def shown(path: Path) -> dict:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert block
    return json.loads(block[1])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = data.rows(60, sentences=3)
    for number in (7, 8, 9):
        rows[number]["chosen_similarity"][0] = None
    rows[50]["chosen"][0]["content"] += " </script><script>alert(1)</script><!-- @@SCRIPT@@ \u2028"
    rows[50]["chosen_sentences"][-1]["end"] = len(rows[50]["chosen"][0]["content"].rstrip())
    return converted.write(tmp_path / "set", [rows[:40], rows[40:]])


def test_rows_are_spread_and_problems_come_with_them(out, tmp_path):
    found = write_preview(out, tmp_path / "page.html", rows=4)
    assert found == {"rows": 7, "of": 60, "problems": {"some sentences have no similarity": 3}}
    page = shown(tmp_path / "page.html")
    assert [row["number"] for row in page["rows"]] == [0, 7, 8, 9, 15, 30, 45]
    assert page["kinds"] == ["some sentences have no similarity"]
    assert all(row["images"][0].startswith("data:image/jpeg;base64,") for row in page["rows"])


def test_the_page_stands_alone_and_texts_stay_texts(out, tmp_path):
    write_preview(out, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(shown(tmp_path / "page.html")["rows"]) == 60
    assert "alert(1)</script>" not in page and page.count("<script") == 2 and page.count("</script>") == 2
    assert not re.search(r"@@[A-Z_]+@@", page.replace("@@SCRIPT@@ \\u2028", ""))
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", page) and "default-src 'none'" in page


def test_the_command(out, tmp_path):
    result = CliRunner().invoke(
        app, ["preview", str(out), "--html", str(tmp_path / "p.html"), "--rows", "2", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rows"] == 5
    result = CliRunner().invoke(app, ["preview", str(tmp_path), "--html", str(tmp_path / "q.html")])
    assert result.exit_code == 2 and not (tmp_path / "q.html").exists()
