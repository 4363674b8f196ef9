"""The size of a folder while others write into it, and hashes computed ahead of their use."""

import hashlib
import os
import threading

import pytest

from alexnet_jax.host import files


@pytest.fixture
def folder(tmp_path):
    """A folder of 3 + 5 bytes, and a link to a file and a folder elsewhere, which do not count."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "large").write_bytes(bytes(1000))
    found = tmp_path / "folder"
    (found / "inner").mkdir(parents=True)
    (found / "a").write_bytes(b"abc")
    (found / "inner" / "b").write_bytes(b"defgh")
    (found / "link").symlink_to(tmp_path / "elsewhere" / "large")
    (found / "links").symlink_to(tmp_path / "elsewhere")
    return found


def test_the_bytes_of_a_folders_own_files(folder, tmp_path):
    assert files.size_of(folder) == 8
    assert files.size_of(tmp_path / "none") == 0


@pytest.mark.parametrize("function", ["scandir", "lstat"])
def test_what_is_renamed_while_it_is_measured_counts_nothing(folder, monkeypatch, function):
    known = getattr(os, function)

    def renamed(path, *arguments, **named):
        if os.fspath(path).endswith("inner" if function == "scandir" else "b"):
            (folder / "inner").rename(folder.parent / "moved")
        return known(path, *arguments, **named)

    monkeypatch.setattr(os, function, renamed)
    assert files.size_of(folder) == 3
    assert (folder.parent / "moved" / "b").exists()


def test_a_file_is_hashed_once_ahead_and_again_where_it_changed(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"defgh")
    files.hash_ahead([one, other])
    other.write_bytes(b"changed")
    assert files.sha256(other) == hashlib.sha256(b"changed").hexdigest()
    begun = [future.result() for future in files._ahead.values()]
    assert hashlib.sha256(b"abc").hexdigest() in begun
    monkeypatch.setattr(files, "_hashed", lambda path: pytest.fail("it is known"))
    assert files.sha256(one) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.undo()
    one.write_bytes(b"xyz")
    assert files.sha256(one) == hashlib.sha256(b"xyz").hexdigest()  # known once alone


def test_what_cannot_be_hashed_ahead_is_said_by_who_asks(tmp_path):
    gone = tmp_path / "gone"
    gone.write_bytes(b"abc")
    files.hash_ahead([gone])
    gone.unlink()
    with pytest.raises(FileNotFoundError):
        files.sha256(gone)


def test_whatever_ends_the_hashing_reaches_who_asks(tmp_path, monkeypatch):
    """Else they would wait for ever."""
    one = tmp_path / "one"
    one.write_bytes(b"abc")

    def ends(path):
        raise MemoryError("no room")

    monkeypatch.setattr(files, "_hashed", ends)
    files.hash_ahead([one])
    with pytest.raises(MemoryError, match="no room"):
        files.sha256(one)


def test_what_has_not_begun_is_hashed_by_who_asks_and_may_be_forgotten(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"defgh")
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # it never comes to it
    files.hash_ahead([one, other])
    assert files.sha256(one) == hashlib.sha256(b"abc").hexdigest()
    files.forget_ahead()
    assert not files._ahead
    assert files.sha256(other) == hashlib.sha256(b"defgh").hexdigest()
