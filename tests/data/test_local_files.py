"""Which files a pattern names on this machine: each file once, and none left out."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from optbench.data.corpus import DataError
from optbench.data.local_files import local_files
from optbench.data.mixture_recipe import HubDataset, TextSource
from optbench.data.parts import check_distinct, list_parts
from optbench.data.readers import read_part
from optbench.data.retries import Patience
from tests.data.folders import write


def listed(base: Path, *patterns: str) -> list[str]:
    """Files of a source, relative to the folder of the recipe."""
    parts = list_parts(TextSource(name="s", files=patterns), base, Patience(attempts=1)).parts
    return sorted(os.path.relpath(part.url, base) for part in parts)


def text(path: Path) -> Path:
    return write(path, b"text of " + os.fsencode(path.name))


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    text(tmp_path / "blobs/1")
    text(tmp_path / "blobs/2")
    (tmp_path / "snap").mkdir()
    (tmp_path / "snap/a.txt").symlink_to("../blobs/1")
    (tmp_path / "snap/b.txt").symlink_to(tmp_path / "blobs/2")
    (tmp_path / "latest").symlink_to("snap")
    for pattern in ("snap/*.txt", "latest/*.txt", "*/*.txt", "**/*.txt"):
        assert len(listed(tmp_path, pattern)) == 2, pattern
    assert listed(tmp_path, "snap/*") == ["snap/a.txt", "snap/b.txt"]
    assert listed(tmp_path, f"{tmp_path}/latest/a.txt") == ["latest/a.txt"]


def test_one_file_under_several_names_is_one(tmp_path: Path) -> None:
    text(tmp_path / "a/x.txt")
    (tmp_path / "a/y.txt").symlink_to("x.txt")
    (tmp_path / "a/z.txt").hardlink_to(tmp_path / "a/x.txt")
    (tmp_path / "b").symlink_to("a")
    names = ["a/x.txt", "./a/x.txt", "b/../a/x.txt", "a/../a/y.txt", "*/*.txt", f"{tmp_path}/b/*"]
    assert listed(tmp_path, *names) == ["a/x.txt"]
    one, two = (
        list_parts(TextSource(name=n, files=(f"a/{n}.txt",)), tmp_path, Patience()) for n in "xz"
    )
    with pytest.raises(DataError, match=r"is in 'x' and in 'z': its text would come twice"):
        check_distinct({"x": one, "z": two})


def test_copies_are_several_files(tmp_path: Path) -> None:
    for name in ("a.txt", "A.txt", "b.txt"):
        write(tmp_path / name, b"the same")
    assert listed(tmp_path, "*.txt") == ["A.txt", "a.txt", "b.txt"]


def test_the_parent_of_a_linked_folder_is_that_of_the_folder(tmp_path: Path) -> None:
    text(tmp_path / "real/a.txt")
    text(tmp_path / "a.txt")
    (tmp_path / "real/in").mkdir()
    (tmp_path / "link").symlink_to("real/in")
    assert listed(tmp_path, "link/../a.txt") == ["real/a.txt"]
    assert listed(tmp_path / "link/..", "a.txt") == ["real/a.txt"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    text(tmp_path / "a/x.txt")
    text(tmp_path / "b/y.txt")
    for folder in ("a", "b"):
        for other in ("a", "b", "."):
            (tmp_path / folder / f"to_{other}").symlink_to(tmp_path / other)
    assert listed(tmp_path, "**/*.txt") == ["a/x.txt", "b/y.txt"]
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(DataError, match=r"loop\.txt is a symbolic link to loop\.txt, which is not"):
        listed(tmp_path, "*.txt")


@pytest.mark.parametrize("pattern", ["*.txt", "gone.txt", "**/*.txt", "gone.txt/*.txt"])
def test_a_link_that_leads_nowhere_is_refused(pattern: str, tmp_path: Path) -> None:
    text(tmp_path / "a.txt")
    (tmp_path / "gone.txt").symlink_to("blob")
    with pytest.raises(DataError, match=r"'s': .*gone\.txt is a symbolic link to blob, which is"):
        listed(tmp_path, pattern)


NAMES = [
    "texts [2024]",
    "run[12]",
    "what?",
    "a*b",
    "[ab",
    "ä[ö]",
    "50%20off",
    "x#1",
    "~home",
    " a ",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_folder_or_file_is_no_pattern(name: str, tmp_path: Path) -> None:
    base = tmp_path / name
    text(base / name / f"{name}.txt")
    for other in ("run1", "texts 2", "what1", "acb", "äö"):
        text(tmp_path / other / name / f"{name}.txt")
    assert listed(base, f"{name}/{name}.txt") == [f"{name}/{name}.txt"]
    assert listed(base, f"{name}/*.txt") == [f"{name}/{name}.txt"]
    assert listed(base, "**/*.txt") == [f"{name}/{name}.txt"]
    assert f"{name}/{name}/{name}.txt" in listed(tmp_path, f"{name}/{name}/*.txt")
    source = TextSource(name="s", hub=HubDataset(dataset=name, files=("*.txt",)))
    (part,) = list_parts(source, base, Patience()).parts
    assert list(read_part(part, source)) == [f"text of {name}.txt"]


def test_a_file_that_is_there_is_not_read_as_a_pattern(tmp_path: Path) -> None:
    for name in ("part[0].txt", "part0.txt", "why?.txt", "whyy.txt"):
        text(tmp_path / name)
    assert listed(tmp_path, "part[0].txt") == ["part[0].txt"]
    assert listed(tmp_path, "why?.txt") == ["why?.txt"]
    (tmp_path / "part[0].txt").unlink()
    assert listed(tmp_path, "part[0].txt") == ["part0.txt"]
    # A literal * is one of the files that the pattern names, and none of the others is lost.
    text(tmp_path / "w*.txt")
    assert listed(tmp_path, "w*.txt") == ["w*.txt", "why?.txt", "whyy.txt"]
    text(tmp_path / "a*[1].txt")
    assert listed(tmp_path, "a*[1].txt") == ["a*[1].txt"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_written_in_either_way(form: str, tmp_path: Path) -> None:
    name = unicodedata.normalize(form, "é[1].txt")  # pyright: ignore[reportArgumentType]
    text(tmp_path / name)
    text(tmp_path / "e.txt")
    for other in ("NFC", "NFD"):
        for pattern in ("é*.txt", "é[1].txt", "é?1?.txt"):
            assert listed(tmp_path, unicodedata.normalize(other, pattern)) == [name]  # pyright: ignore[reportArgumentType]


def test_a_url_of_this_machine_is_a_path(tmp_path: Path) -> None:
    text(tmp_path / "run[1]/a.txt")
    text(tmp_path / "run1/a.txt")
    (tmp_path / "run[1]/b.txt").symlink_to("a.txt")
    found = ["run[1]/a.txt"]
    assert listed(tmp_path, f"file://{tmp_path}/run[1]/*.txt", "run[1]/b.txt") == found


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")), b"text")
    source = TextSource(name="s", files=("*.txt",))
    listing = list_parts(source, tmp_path, Patience())
    assert list(read_part(listing.parts[0], source)) == ["text"]
    assert listing.digest()


def test_names_with_colons_are_no_chains_of_urls(tmp_path: Path) -> None:
    text(tmp_path / "zip::a.txt")
    source = TextSource(name="s", files=("zip::a.txt",))
    (part,) = list_parts(source, tmp_path, Patience()).parts
    assert list(read_part(part, source)) == ["text of zip::a.txt"]


def test_hidden_files_and_those_of_any_ending_in_capitals_are_found(tmp_path: Path) -> None:
    text(tmp_path / ".hidden/.a.TXT")
    assert listed(tmp_path, "**/*") == [".hidden/.a.TXT"]
    assert listed(tmp_path, "**") == [".hidden/.a.TXT"]
    assert listed(tmp_path, ".*/*") == [".hidden/.a.TXT"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    text(tmp_path / "sub/a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt is neither a file nor a folder"):
        listed(tmp_path, "*.txt")
    with pytest.raises(DataError, match=r"The folder .*sub is named as a file\..* .*sub/\*"):
        listed(tmp_path, "sub")
    with pytest.raises(DataError, match=r"finds no file at .*none/\*\.txt"):
        listed(tmp_path, "none/*.txt")
    with pytest.raises(DataError, match=r"~nobody-of-this-name/a\.txt cannot be found: .*whole pa"):
        listed(tmp_path, "~nobody-of-this-name/a.txt")
    assert local_files("*", tmp_path / "sub") == [str(tmp_path / "sub/a.txt")]


def test_files_inside_an_archive_are_read_by_the_chain_of_both(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d/1.txt", "one")
        archive.writestr("d/2.txt", "two")
    source = TextSource(name="s", files=(f"zip://d/*.txt::{tmp_path}/a.zip",))
    parts = list_parts(source, tmp_path, Patience(attempts=1)).parts
    assert sorted(text for part in parts for text in read_part(part, source)) == ["one", "two"]
