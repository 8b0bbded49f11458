"""The verdicts of a name's runs: appended, never removed, and what was changed shows."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence_factory import CANDIDATE, NOW, broken_arm, changed, passing_release
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import Tries
from tokenbuncher.registry.history import FILE_NAME, history, remember

RELEASE = passing_release()
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(RELEASE.spec, 15, CANDIDATE))


def registration(number):
    return changed(RELEASE.registration, tries=Tries(evidence=f"{number:064x}", earlier=number))


def verdict(number, release=RELEASE):
    return changed(release.judge(), version=str(number), created=NOW + timedelta(minutes=number))


def remembered(folder, count):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        remember(folder, verdict(number, BROKEN if number % 2 else RELEASE), registration(number))
    return (folder / FILE_NAME).read_bytes().splitlines(keepends=True)


def test_every_verdict_is_kept_with_its_reasons(tmp_path):
    remembered(tmp_path, 3)
    entries = history(tmp_path)
    assert [(entry.version, entry.outcome) for entry in entries] == [("0", "PASS"), ("1", "BLOCK"), ("2", "PASS")]
    assert entries[1].reasons == BROKEN.judge().reasons
    assert [entry.evidence for entry in entries] == [f"{number:064x}" for number in range(3)]


def test_what_is_remembered_twice_stands_once(tmp_path):
    lines = remembered(tmp_path, 3)
    remember(tmp_path, verdict(1, BROKEN), registration(1))
    assert (tmp_path / FILE_NAME).read_bytes().splitlines(keepends=True) == lines


def test_without_a_history_there_is_none(tmp_path):
    assert history(tmp_path) == []


@given(st.integers(2, 5), st.data())
@settings(max_examples=50, deadline=None)
def test_what_was_removed_or_changed_shows(tmp_path_factory, count, data):
    folder = tmp_path_factory.mktemp("run")
    lines = remembered(folder, count)
    place = data.draw(st.integers(0, count - 2))
    spoilt = data.draw(
        st.sampled_from(
            [
                lines[:place] + lines[place + 1 :],
                [
                    *lines[:place],
                    lines[place].replace(b"organism", b"0rganism"),
                    *lines[place + 1 :],
                ],
                [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
                [*lines[:place], lines[place], *lines[place:]],
                [*lines[:place], b"\n", *lines[place:]],
                [*lines[:place], lines[place][:-20] + b"\n", *lines[place + 1 :]],
                [b"\xff\xfe\n", *lines],
            ]
        )
    )
    (folder / FILE_NAME).write_bytes(b"".join(spoilt))
    with pytest.raises(UserError, match=r"the history .* (damaged|not whole)"):
        history(folder)
    remember(folder, verdict(99), registration(99))
    with pytest.raises(UserError, match="the history"):
        history(folder)
    assert (folder / FILE_NAME).read_bytes().startswith(b"".join(spoilt))


def test_a_line_that_was_cut_short_is_not_written_on(tmp_path):
    lines = remembered(tmp_path, 2)
    (tmp_path / FILE_NAME).write_bytes(b"".join(lines)[:-30])
    remember(tmp_path, verdict(5), registration(5))
    with pytest.raises(UserError, match="damaged"):
        history(tmp_path)
    assert len((tmp_path / FILE_NAME).read_bytes().splitlines()) == 3


def test_a_history_that_cannot_be_read_is_not_none(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        history(tmp_path)


def test_a_history_that_is_a_dangling_link_is_not_none(tmp_path):
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot be read"):
        history(tmp_path)
