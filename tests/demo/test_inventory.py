"""The inventory: every file once, in order, and nothing that is not below the folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskloom.demo.inventory import Counts, Found, read_list, walk, write_list


def paths(root: Path, leave_out: Path | None = None) -> list[str]:
    return [found.path for found in walk(str(root), None if leave_out is None else str(leave_out), Counts())]


def make(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)


@contextmanager
def nested(root: Path, name: str, depth: int) -> Iterator[None]:
    """Folders in folders, too deep for the usual ways to make and to remove them."""
    here = os.getcwd()
    os.chdir(root)
    try:
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
        os.chdir(here)
        yield
        os.chdir(root)
        for _ in range(depth):
            os.chdir(name)
        for _ in range(depth):
            os.chdir("..")
            os.rmdir(name)
    finally:
        os.chdir(here)


def test_every_file_in_the_order_of_the_paths(tmp_path: Path) -> None:
    files = ["b", "a/z", "a-b", "a/b/c", "a.py", "z/y/x", "A", "ä"]
    make(tmp_path, *files)
    (tmp_path / "empty").mkdir()
    assert paths(tmp_path) == sorted(files)


def test_an_empty_folder_has_no_files(tmp_path: Path) -> None:
    assert paths(tmp_path) == []


def test_the_left_out_folder_is_left_out_under_every_name(tmp_path: Path) -> None:
    make(tmp_path, "kept", "deep/out/hidden", "deep/kept")
    (tmp_path / "other").symlink_to(tmp_path / "deep")
    assert paths(tmp_path, tmp_path / "other" / "out") == ["deep/kept", "kept"]
    assert paths(tmp_path / "deep" / "out", tmp_path / "deep" / "out") == []


def test_links_to_folders_are_counted_and_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "folder/file")
    (tmp_path / "folder" / "up").symlink_to("..")
    (tmp_path / "side").symlink_to("folder")
    (tmp_path / "file-link").symlink_to("folder/file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    counts = Counts()
    found = [item.path for item in walk(str(tmp_path), None, counts)]
    assert found == ["dangling", "file-link", "folder/file", "loop"]
    assert counts == Counts(files=4, folders=2, links_to_folders=2)


def test_a_folder_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    """A path that is too long for the system is a folder that nobody can read, not even root."""
    make(tmp_path, "a", "z")
    with nested(tmp_path, "d" * 250, 20):
        first, *too_deep, last = walk(str(tmp_path), None, Counts())
    assert (first, last) == (Found("a"), Found("z"))
    assert len(too_deep) == 1
    assert too_deep[0].problem == "OSError: File name too long (the folder cannot be read)"
    assert too_deep[0].to_json().keys() == {"path", "problem"}


def test_very_deep_folders_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    with nested(tmp_path, "d", 1500):  # Python's own limit is 1,000 calls
        make(tmp_path, "d/" * 1500 + "file")
        assert paths(tmp_path) == ["d/" * 1500 + "file"]
        (tmp_path / ("d/" * 1500 + "file")).unlink()


def test_the_list_holds_names_of_every_kind(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "list.jsonl"
    root.mkdir()
    odd = [b"new\nline", b"caf\xe9", b'quote"\\', "emoji 🐈".encode(), b"-", b"\x01"]
    for name in odd:
        with open(os.path.join(os.fsencode(root), name), "wb"):
            pass
    seen: list[int] = []
    result = write_list(str(root), str(tmp_path / "out"), target, seen.append)
    assert result == {"list": "list.jsonl", "files": 6, "folders": 1, "linksToFolders": 0}
    assert [item["path"] for item in read_list(target)] == [
        found.to_json()["path"] for found in walk(str(root), None, Counts())
    ]
    assert seen[-1] == 6
    assert sorted(os.listdir(tmp_path)) == ["list.jsonl", "root"]


def test_a_list_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that breaks off must not leave half a list under the name of a whole one."""
    root, target = tmp_path / "root", tmp_path / "list.jsonl"
    make(root, *(f"{number:03}" for number in range(250)))
    target.write_text("before")

    def break_off(count: int) -> None:
        raise RuntimeError(f"at {count}")

    with pytest.raises(RuntimeError, match="at 100"):
        write_list(str(root), str(tmp_path / "out"), target, break_off)
    assert target.read_text() == "before"
