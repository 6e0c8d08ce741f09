from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest

from optbench.config import ConfigError
from optbench.errors import excerpt
from optbench.files.text_files import read_user_text

TEXT = 'name = "Übung – 测试 🙂"\n'
MARKED = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def written(folder: Path, raw: bytes) -> Path:
    path = folder / "study.toml"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("encoding", MARKED)
def test_a_marked_text_is_read_without_its_mark(encoding: str, tmp_path: Path) -> None:
    raw = MARKED[encoding] + TEXT.encode(encoding)
    assert read_user_text(written(tmp_path, raw)) == TEXT


def test_line_ends_are_those_of_text_files(tmp_path: Path) -> None:
    assert read_user_text(written(tmp_path, b"a\r\nb\rc\n")) == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"# caf\xe9\n", r"is not UTF-8: byte 0xe9 at position 5, in b'# caf\\xe9\\n'"),
        (b"\xef\xbb\xbf# caf\xe9", r"is not UTF-8: byte 0xe9 at position 8"),
        (codecs.BOM_UTF16_LE + b"a\0b", r"is not UTF-16-LE: byte 0x62 at position 4"),
        ("name".encode("utf-16-le"), r"holds zero bytes, as UTF-16 without a byte order mark does"),
    ],
)
def test_another_encoding_is_refused_by_the_place_of_its_first_byte(
    raw: bytes, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, raw)
    with pytest.raises(
        ConfigError, match=re.escape(str(path)) + r"(, line 1)? " + message
    ) as error:
        read_user_text(path)
    assert "UTF-8" in str(error.value)


def test_the_line_of_the_first_wrong_byte_is_named(tmp_path: Path) -> None:
    raw = b"a = 1\r\nb = 2\n# caf\xe9\n"
    with pytest.raises(ConfigError, match=r"study\.toml, line 3 is not UTF-8: byte 0xe9"):
        read_user_text(written(tmp_path, raw))
    with pytest.raises(ConfigError, match=r"study\.toml, line 2 is not UTF-16-LE"):
        read_user_text(written(tmp_path, codecs.BOM_UTF16_LE + "\n".encode("utf-16-le") + b"b"))


def test_what_is_no_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory\."):
        read_user_text(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        read_user_text(tmp_path / "none.toml")


def test_an_excerpt_is_short_however_long_its_value_is() -> None:
    assert excerpt("short") == "'short'"
    assert excerpt(3) == "3"
    shown = excerpt("begin" + "x" * 1_000_000 + "end")
    assert len(shown) < 120
    assert shown.startswith("'begin")
    assert shown.endswith("end' (1,000,008 characters)")
    assert excerpt(b"b" * 1000).endswith("(1,000 bytes)")
    assert len(excerpt(list(range(10_000)))) < 120
