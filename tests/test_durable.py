from pathlib import Path

import pytest

from optbench.durable import flush_to_disk


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
