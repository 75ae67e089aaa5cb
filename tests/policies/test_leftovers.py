"""What killed writers leave goes, what live ones still write stays."""

import os
import time
from pathlib import Path

import pytest

from policies.leftovers import (
    STALE_S,
    is_gone,
    put_in_place,
    remove_leftovers,
    take_away,
    temporary_beside,
    this_process,
)
from tests.policies.leftovers_case import ELSEWHERE, gone_process, left_by


@pytest.fixture(scope="module")
def gone():
    return gone_process()


def aged(path, age_s):
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_process_of_this_host_is_asked_and_any_other_judged_by_age(gone):
    now = time.time()
    assert is_gone(gone, now)
    assert not is_gone(this_process(), now - 2 * STALE_S)
    assert not is_gone(f"{this_process().partition('-')[0]}-1", now - 2 * STALE_S), (
        "another user's lives, too"
    )
    for unknown in (ELSEWHERE, None):
        assert not is_gone(unknown, now - STALE_S / 2)
        assert is_gone(unknown, now - 2 * STALE_S)


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_dead_process_left_goes_and_a_live_one_s_stays(tmp_path, gone, folder):
    path = tmp_path / "policy"
    dead, live = (left_by(process, path, folder=folder) for process in (gone, this_process()))
    remove_leftovers(tmp_path, "policy")
    assert not dead.exists()
    assert live.exists()


def test_what_another_host_left_goes_when_it_is_old(tmp_path):
    old, young = (left_by(ELSEWHERE, tmp_path / name) for name in ("old", "young"))
    nameless = tmp_path / "old.0123abcd.tmp"
    nameless.write_text("half")
    aged(old, 2 * STALE_S)
    aged(nameless, 2 * STALE_S)
    aged(young, STALE_S / 2)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_other_names_are_none_of_its_business(tmp_path, gone):
    kept = {left_by(gone, tmp_path / name) for name in ("policy.b", "a.policy", "other")}
    kept |= {tmp_path / name for name in ("policy", "policy.tmp", "policy.json")}
    for path in kept:
        path.touch()
    remove_leftovers(tmp_path, "policy")
    assert set(tmp_path.iterdir()) == kept


def test_a_temporary_name_is_new_and_known_to_the_sweep(tmp_path, gone):
    one, other = (temporary_beside(tmp_path / "a.b") for _ in range(2))
    assert one != other
    theirs = one.with_name(one.name.replace(this_process(), gone))
    theirs.touch()
    remove_leftovers(tmp_path, "a.b")
    assert not theirs.exists()


def folder_of(path, text):
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_folder_takes_the_place_of_another(tmp_path):
    for text in ("first", "second"):
        put_in_place(folder_of(tmp_path / "staging", text), tmp_path / "final")
        assert (tmp_path / "final" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_of_two_writers_at_once_the_last_one_counts(tmp_path, monkeypatch):
    final, ours = folder_of(tmp_path / "final", "old"), folder_of(tmp_path / "ours", "ours")
    rename = os.rename

    def raced(source, target):
        rename(source, target)
        if Path(source) == final and not final.exists():
            monkeypatch.setattr(os, "rename", rename)
            folder_of(final, "theirs")

    monkeypatch.setattr(os, "rename", raced)
    put_in_place(ours, final)
    assert (final / "file").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("calls", [1, 2])
def test_an_interrupted_replacement_leaves_the_old_folder_in_its_place(tmp_path, monkeypatch, calls):
    final, staging = folder_of(tmp_path / "final", "old"), folder_of(tmp_path / "staging", "new")
    rename, left = os.rename, calls

    def interrupted(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(staging, final)
    assert (final / "file").read_text() == "old"
    assert (staging / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_taken_away_whether_it_is_there_or_not(tmp_path):
    folder = folder_of(tmp_path / "final", "old")
    for _ in range(2):
        take_away(folder)
        assert not list(tmp_path.iterdir())
