"""The folder of a stage's working files."""

import pytest

from pipeline.layout import RunLayout
from pipeline.scratch import scratch
from tests.policies.leftovers_case import gone_process, left_by


def test_a_scratch_folder_goes_with_its_stage_however_that_ends(tmp_path):
    def interrupted():
        with scratch(RunLayout(tmp_path), "training") as folder:
            (folder / "vectors").write_bytes(b"mapped")
            assert list(tmp_path.iterdir()) == [folder]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_second_training_in_the_same_folder_leaves_the_first_its_files(tmp_path):
    layout = RunLayout(tmp_path)
    killed = left_by(gone_process(), tmp_path / ".training", folder=True)
    with scratch(layout, "training") as first:
        assert not killed.exists()
        with scratch(layout, "training") as second:
            assert {first, second} == set(tmp_path.iterdir())
        assert first.exists()
