from __future__ import annotations

import json
from pathlib import Path

import pytest

from optbench.report.page import PageError, embed_json, template, write_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_embedded_json_cannot_leave_its_script() -> None:
    raw = embed_json({"a": {"x": f"{EVIL} <!-- & \u2028"}})
    assert not set("<>&\u2028") & set(raw)
    assert json.loads(raw) == {"a": {"x": f"{EVIL} <!-- & \u2028"}}


def test_filters_of_one_page_are_not_those_of_another() -> None:
    own = template("parts/page.css", {"mine": str}).environment.filters
    other = template("parts/page.css", {}).environment.filters
    assert "mine" in own
    assert "mine" not in other
    assert {"speedup", "marker", "count"} <= other.keys()


def test_a_page_that_cannot_be_written_leaves_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()  # a folder of that name is in the way
    with pytest.raises(PageError, match=r"page\.html could not be written \(Is a directory\)"):
        write_page("text", tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
