import os
import socket
from pathlib import Path

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import (
    add_to_output,
    check_output_file,
    files_below,
    folder_digest,
    folder_files,
    whole_folder,
    write_text,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), whole_folder(out) as folder:
        (folder / "half").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(out) as folder:
        (folder / "whole").write_text("whole", encoding="utf-8")
    assert [path.name for path in out.iterdir()] == ["whole"]


def test_a_failure_leaves_the_folder_that_was_there(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(out):
        raise KeyboardInterrupt
    assert [path.name for path in out.iterdir()] == ["old"]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "rubble").touch()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_a_name_by_which_two_folders_could_have_one_digest_is_refused(tmp_path):
    (tmp_path / f"a\n{'0' * 64}  b").touch()
    with pytest.raises(UserError, match="control character"):
        folder_digest(tmp_path)


@pytest.fixture
def model(tmp_path):
    """A folder with a file, and something beside it."""
    for name in ("model", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name, encoding="utf-8")
    return tmp_path / "model"


def bind_socket(at):
    here = os.getcwd()
    os.chdir(at.parent)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(at.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("put", "telling"),
    [
        (lambda at: at.symlink_to("../../elsewhere"), "is a linked folder"),
        (lambda at: at.symlink_to("."), "is a linked folder"),
        (lambda at: at.symlink_to("/"), "is a linked folder"),
        (lambda at: at.symlink_to("../../elsewhere/weights"), "is a link that leads out of"),
        (lambda at: at.symlink_to("/dev/zero"), "is a link that leads out of"),
        (lambda at: at.symlink_to("/nosuch"), "is a link that leads out of"),
        (lambda at: at.symlink_to("nosuch"), "is neither a file nor a folder"),
        (lambda at: at.symlink_to(at.name), "is neither a file nor a folder"),
        (os.mkfifo, "is neither a file nor a folder"),
        (bind_socket, "is neither a file nor a folder"),
    ],
    ids=["folder", "itself", "root", "out", "device", "out-broken", "broken", "loop", "pipe", "socket"],
)
def test_what_some_readers_follow_and_some_do_not_is_refused(model, put, telling):
    (model / "deep").mkdir()
    put(model / "deep" / "modeling")
    for walk in (files_below, folder_files, folder_digest):
        with pytest.raises(UserError, match=telling):
            walk(model)


def test_a_chain_of_links_that_leads_out_is_refused(model):
    (model / "a").symlink_to("b")
    (model / "b").symlink_to("../elsewhere/weights")
    with pytest.raises(UserError, match="is a link that leads out of"):
        folder_files(model)


def test_a_link_to_a_file_beside_it_is_a_file(model):
    (model / "copy").symlink_to("weights")
    files = folder_files(model)
    assert list(files) == ["copy", "weights"]
    assert files["copy"] == files["weights"]


def test_the_folder_itself_may_be_a_link(model):
    (model / "copy").symlink_to("weights")
    (model.parent / "current").symlink_to("model")
    assert folder_files(model.parent / "current") == folder_files(model)


@pytest.mark.skipif(os.getuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_refused(model):
    (model / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match="closed cannot be listed"):
        folder_files(model)


def test_write_text_replaces_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a", "1")
    write_text(tmp_path / "a", "2")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("a", "2")]


@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_the_digest_tells_any_change(tmp_path, change):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a", encoding="utf-8")
    (tmp_path / "b").write_text("b", encoding="utf-8")
    before = folder_digest(tmp_path)
    assert list(folder_files(tmp_path)) == ["b", "sub/a"]
    assert folder_digest(tmp_path) == before
    if change == "content":
        (tmp_path / "b").write_text("B", encoding="utf-8")
    elif change == "name":
        (tmp_path / "b").rename(tmp_path / "c")
    elif change == "more":
        (tmp_path / "c").touch()
    else:
        (tmp_path / "b").unlink()
    assert folder_digest(tmp_path) != before


def _tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", ["notes.txt", "verdict.json", ".git", "deep/below/notes.txt", "empty/"])
def test_a_folder_that_is_no_output_is_never_replaced(name, tmp_path):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine", encoding="utf-8")
    before = _tree(tmp_path)
    with pytest.raises(UserError, match=r"holds .* no earlier run of this tool wrote"), whole_folder(out):
        raise AssertionError("the work has begun")
    assert _tree(tmp_path) == before


@pytest.mark.parametrize("change", ["added", "edited", "link", "folder"])
def test_what_was_put_into_an_earlier_output_is_not_lost(change, tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "model").write_text("ours", encoding="utf-8")
    if change == "added":
        (out / "notes").write_text("mine", encoding="utf-8")
    elif change == "edited":
        (out / "model").write_text("mine, and longer", encoding="utf-8")
    elif change == "link":
        (out / "model").unlink()
        (out / "model").symlink_to(tmp_path)
    else:
        (out / "more").mkdir()
    with pytest.raises(UserError, match="no earlier run"), whole_folder(out):
        pass
    assert (out / "notes").exists() == (change == "added")


def test_what_comes_into_the_folder_during_the_work_is_not_lost(tmp_path):
    with pytest.raises(UserError, match="'notes'"), whole_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes").write_text("mine", encoding="utf-8")
    assert _tree(tmp_path) == {"out": False, "out/notes": "mine"}


@pytest.mark.parametrize("attributes", [True, False], ids=["attributes", "none"])
def test_an_earlier_output_is_replaced_and_its_mark_is_in_no_digest(attributes, tmp_path, monkeypatch):
    if not attributes:
        monkeypatch.delattr("os.setxattr")
        monkeypatch.delattr("os.getxattr")
    for text in ("old", "newer"):
        with whole_folder(tmp_path / "out") as folder:
            (folder / "model").write_text(text, encoding="utf-8")
        (tmp_path / text).mkdir()
        (tmp_path / text / "model").write_text(text, encoding="utf-8")
        assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / text)
    (tmp_path / "out" / "model").unlink()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "other").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]


def test_an_empty_folder_and_a_moved_output_are_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as folder:
        (folder / "new").touch()
    (tmp_path / "empty").rename(tmp_path / "moved")
    with whole_folder(tmp_path / "moved"):
        pass
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_file_that_is_added_to_an_output_is_part_of_it(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "old").touch()
    add_to_output(tmp_path / "out" / "added", "text")
    add_to_output(tmp_path / "elsewhere" / "added", "text")
    with whole_folder(tmp_path / "out"):
        pass
    with pytest.raises(UserError), whole_folder(tmp_path / "elsewhere"):
        pass


@pytest.mark.parametrize(
    "out", [".", "..", "/", "sub/..", "link", "dangling", "file", "fifo", "../work", "sub/../../work"]
)
def test_what_cannot_be_an_output_folder_is_refused(out, tmp_path, monkeypatch):
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "elsewhere").mkdir()
    Path("link").symlink_to(tmp_path / "elsewhere")
    Path("dangling").symlink_to("nowhere")
    Path("file").write_text("mine", encoding="utf-8")
    os.mkfifo("fifo")
    before = sorted(tmp_path.rglob("*"))
    for path in (Path(out), Path(out).absolute()):
        with pytest.raises(UserError, match="choose another --out"), whole_folder(path):
            raise AssertionError("the work has begun")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_no_output_is_never_replaced(tmp_path):
    def ours(content):
        return content.startswith(b"ours")

    check_output_file(tmp_path / "new", ours)
    (tmp_path / "earlier").write_text("ours, once", encoding="utf-8")
    check_output_file(tmp_path / "earlier", ours)
    (tmp_path / "key").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "earlier")
    (tmp_path / "folder").mkdir()
    for name in ("key", "link", "folder"):
        with pytest.raises(UserError, match="is no earlier output"):
            check_output_file(tmp_path / name, ours)
    with pytest.raises(UserError, match="is no earlier output"):
        check_output_file(Path(os.devnull), ours)
