import errno
import os
from pathlib import Path

import pytest

from optbench.files.durable import flush_to_disk, write_durably


def test_files_and_folders_can_be_flushed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", flushed.append)
    (tmp_path / "file").write_text("text")
    flush_to_disk(tmp_path / "file")
    flush_to_disk(tmp_path)
    assert len(flushed) == 2
    with pytest.raises(FileNotFoundError):
        flush_to_disk(tmp_path / "missing")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "study.toml"
    write_durably(path, b"old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["study.toml"]
    assert path.read_bytes() == b"old"
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
