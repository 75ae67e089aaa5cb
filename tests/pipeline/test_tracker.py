"""Which MLflow a run is tracked in: the file is made whole or not at all."""

import errno
import os
import shutil
import sqlite3

import pytest

from pipeline.compose import load_config
from pipeline.tracker import tracking_uri
from policies.errors import InputError
from tests.policies.leftovers_case import gone_process, left_by


def fails_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_new_file_gets_its_tables_on_a_file_system_without_links_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    killed = left_by(gone_process(), tmp_path / "mlflow.db")
    assert tracking_uri(load_config([f"run.root={tmp_path}"])) == f"sqlite:///{tmp_path}/mlflow.db"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    assert not killed.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_folder_that_is_there_but_cannot_be_written_is_named():
    with pytest.raises(InputError, match=r"run\.root=/proc: cannot be written"):
        tracking_uri(load_config(["run.root=/proc"]))
    with pytest.raises(InputError, match=r"tracking\.uri=sqlite:////proc/mlflow\.db: cannot be written"):
        tracking_uri(load_config(["tracking.uri=sqlite:////proc/mlflow.db"]))


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.tracker.upgrade.callback", lambda uri: None)
    monkeypatch.setattr(shutil, "copyfile", fails_with(errno.ENOSPC))
    with pytest.raises(InputError, match=r"run\.root=.*: cannot be written: No space left on device"):
        tracking_uri(load_config([f"run.root={tmp_path}"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///file:a.db?mode=ro&uri=true", "sqlite:///"])
def test_a_database_that_is_no_plain_file_is_left_to_its_owner(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(load_config([f"tracking.uri='{uri}'"])) == uri
    assert not list(tmp_path.iterdir())
