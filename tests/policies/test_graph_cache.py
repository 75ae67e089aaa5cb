"""Converted graphs on disk."""

import pytest

from policies.encoder.graph_cache import cached_graph
from tests.policies.leftovers_case import gone_process, left_by


def read(folder):
    path = folder / "graph"
    return path.read_text() if path.exists() and path.read_text() != "damaged" else None


def test_a_graph_is_written_once_and_then_read(tmp_path):
    made = []

    def write(folder):
        made.append(folder)
        (folder / "graph").write_text("whole")

    folder = tmp_path / "cache" / "one"
    assert [cached_graph(folder, write, read) for _ in range(2)] == ["whole", "whole"]
    assert len(made) == 1
    (folder / "graph").write_text("damaged")
    assert cached_graph(folder, write, read) == "whole"
    assert read(folder) == "whole", "the damaged one is replaced"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    def write(folder):
        (folder / "graph").write_text("half")
        raise MemoryError

    with pytest.raises(MemoryError):
        cached_graph(tmp_path / "one", write, read)
    assert not list(tmp_path.iterdir())


def test_what_killed_conversions_left_is_removed_by_the_next(tmp_path):
    killed = left_by(gone_process(), tmp_path / "of another version", folder=True)
    cached_graph(tmp_path / "one", lambda there: (there / "graph").write_text("whole"), read)
    assert not killed.exists()


def test_where_nothing_can_be_kept_a_graph_is_converted_each_time(tmp_path):
    (tmp_path / "home").write_text("a file, where a folder is wanted")
    folder = tmp_path / "home" / "cache" / "one"
    assert cached_graph(folder, lambda there: (there / "graph").write_text("whole"), read) == "whole"


def test_what_another_process_keeps_first_serves_as_well(tmp_path):
    folder = tmp_path / "one"

    def write(there):
        folder.mkdir()
        (folder / "graph").write_text("theirs")
        (there / "graph").write_text("ours")

    assert cached_graph(folder, write, read) in ("ours", "theirs")
    assert read(folder) in ("ours", "theirs")
