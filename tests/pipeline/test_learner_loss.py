"""A remote learner is killed in the middle of training: the result is that of an undisturbed run, bit for bit."""

import os
import signal
from contextlib import suppress
from threading import Timer

import psutil
import pytest

from pipeline import train
from pipeline.layout import RunLayout
from pipeline.training import HistoryFile
from tests.pipeline.test_train import tables  # noqa: F401
from tests.pipeline.test_train_llm_bandit import quick
from tests.pipeline.test_train_outcome_model import run  # noqa: F401


def learner_processes():
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # others come and go
            if "".join(process.cmdline()).startswith("ray::_WrappedExecutable"):
                found.append(process.pid)
    return found


@pytest.fixture
def losing_a_learner(monkeypatch):
    """Return what makes training lose a learner after the history's line of a number, and the ids of those lost."""
    record, lost = HistoryFile.record, []

    def lose(key, number, delay_s):
        def killing(self, line):
            record(self, line)
            if line.get(key) == number and not lost:
                lost.extend(learner_processes())
                Timer(delay_s, os.kill, (lost[0], signal.SIGKILL)).start()

        monkeypatch.setattr(HistoryFile, "record", killing)
        return lost

    return lose


def trained(config, num_learners):
    """Train with so many remote learners; return a hash of all that was learned, and the history."""
    learners = config.train.model_copy(update={"num_learners": num_learners})
    bundle = train.run(config.model_copy(update={"train": learners}))
    return bundle.policy_version, RunLayout.of(config).history.read_text()


def test_the_outcome_model_goes_on_from_its_last_whole_epoch(ray_session, run, losing_a_learner):  # noqa: F811
    config, _ = run
    undisturbed = trained(config, num_learners=0)
    lost = losing_a_learner("epoch", 2, delay_s=0.002)  # within the third
    assert trained(config, num_learners=1) == undisturbed
    assert len(lost) == 1
    assert not psutil.pid_exists(lost[0])


def test_llm_bandit_begins_ppo_again(ray_session, tables, tmp_path, losing_a_learner):  # noqa: F811
    config, _ = quick(tables, tmp_path / "run")
    # A learner of its own process draws its minibatches from numbers of its own.
    undisturbed = trained(config, num_learners=1)
    lost = losing_a_learner("iteration", 1, delay_s=0.0)
    assert trained(config, num_learners=1) == undisturbed
    assert len(lost) == 1
    assert not psutil.pid_exists(lost[0])
