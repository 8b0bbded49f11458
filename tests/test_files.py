import pytest

from tokenbuncher.errors import UserError
from tokenbuncher.files import folder_digest, folder_files, whole_folder, write_text


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), whole_folder(out) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(out) as folder:
        (folder / "whole").write_text("whole")
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


def test_write_text_replaces_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a", "1")
    write_text(tmp_path / "a", "2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "2")]


@pytest.mark.parametrize("change", ["content", "name", "more", "less"])
def test_the_digest_tells_any_change(tmp_path, change):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    before = folder_digest(tmp_path)
    assert list(folder_files(tmp_path)) == ["b", "sub/a"]
    assert folder_digest(tmp_path) == before
    if change == "content":
        (tmp_path / "b").write_text("B")
    elif change == "name":
        (tmp_path / "b").rename(tmp_path / "c")
    elif change == "more":
        (tmp_path / "c").touch()
    else:
        (tmp_path / "b").unlink()
    assert folder_digest(tmp_path) != before
