"""A bundle is replaced as a whole, or not at all."""

import os
from dataclasses import replace

import numpy as np
import pytest

from policies.bundle import EncoderIdentity, RouterBundle
from policies.constants import BestSinglePolicy
from policies.costs import CostModel
from policies.leftovers import this_process
from policies.pool import ModelPool, ModelSpec
from tests.policies.leftovers_case import gone_process, left_by

POOL = ModelPool("two", (ModelSpec("good", 3.0, 15.0), ModelSpec("cheap", 0.1, 0.4)))
BUNDLE = RouterBundle(
    BestSinglePolicy(POOL.models, np.array([0.9, 0.4]), np.array([0.9, 0.1])),
    POOL,
    EncoderIdentity("toy", "0" * 64, "torch-fp32", 4),
    CostModel(POOL.prices_per_token_usd, 50.0, np.array([0.003, 0.0001])),
    tau_usd=0.01,
)


def test_an_interruption_while_the_new_policy_takes_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    old = BUNDLE.save(folder)
    rename = os.rename

    def interrupted(source, target):
        rename(source, target)
        if os.fspath(source) == os.fspath(folder):  # the old one has just been moved aside
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(BUNDLE, tau_usd=0.02).save(folder)
    assert RouterBundle.load(folder).policy_version == old
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_save_removes_what_a_killed_one_left_and_nothing_of_a_live_one(tmp_path):
    folder = tmp_path / "policy"
    dead, live = (left_by(process, folder, folder=True) for process in (gone_process(), this_process()))
    BUNDLE.save(folder)
    assert not dead.exists()
    assert live.exists()
