"""Text that people write is read alike everywhere, or refused with what is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crypto import text_files
from crypto.errors import SpecError

TEXT = 'purpose = "Läsionen zählen, ε = 1"\n'


def test_utf_8_with_and_without_a_byte_order_mark_is_one_text(tmp_path: Path) -> None:
    for name, data in (("a", TEXT.encode()), ("b", b"\xef\xbb\xbf" + TEXT.encode())):
        (tmp_path / name).write_bytes(data)
        assert text_files.read(tmp_path / name, "a job file") == TEXT
        assert text_files.read_toml(tmp_path / name, "a job file") == {"purpose": "Läsionen zählen, ε = 1"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32", "cp037"])
def test_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "job.toml").write_bytes("Läsionen".encode(encoding))
    with pytest.raises(SpecError, match=r"job\.toml: got 'bytes that are not UTF-8.* want a job file in UTF-8"):
        text_files.read(tmp_path / "job.toml", "a job file")


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")  # a reader that waits for a writer would hang
    (tmp_path / "folder").mkdir()
    for name, found in (("pipe", "a pipe or device"), ("folder", "Is a directory"), ("none", "No such file")):
        with pytest.raises(SpecError, match=found):
            text_files.read(tmp_path / name, "a job file")
    monkeypatch.setattr(text_files, "MOST_BYTES", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(SpecError, match="a larger file"):
        text_files.read(tmp_path / "large", "a job file")


def test_toml_that_is_none_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("a = 1\nb\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"line 2.* want a job file in TOML\. See"):
        text_files.read_toml(tmp_path / "job.toml", "a job file", remedy="See the page.")
