"""Splits: copies stay together, shares are kept, held-out tasks are held out."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compose import load_config
from pipeline.splits import assign_splits, text_key
from policies.errors import InputError

DATA = load_config(["data.ood_tasks=[]"]).data


def frame(texts, tasks=None):
    return pl.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(len(texts))],
            "prompt": texts,
            "task": tasks or ["t"] * len(texts),
        }
    )


def test_shares_are_near_the_configured_ones():
    split = assign_splits(frame([f"question number {i}" for i in range(5000)]), DATA)["split"]
    assert abs((split == "train").mean() - 0.8) < 0.02
    assert abs((split == "test").mean() - 0.1) < 0.02


@given(st.text(min_size=1), st.sampled_from(["  {} ", "{}!", "{}\n", "\t{}?"]))
def test_copies_that_differ_in_case_space_or_punctuation_have_one_key(text, shape):
    assert text_key(shape.format(text)) == text_key(text)


def test_copies_sit_on_one_side():
    originals = [f"What is {i} plus {i + 1}?" for i in range(300)]
    copies = [f"  what is {i} PLUS {i + 1}" for i in range(300)]
    split = assign_splits(frame(originals + copies), DATA)["split"].to_list()
    assert split[:300] == split[300:]


def test_split_of_a_prompt_does_not_depend_on_the_others():
    texts = [f"question {i}" for i in range(100)]
    whole = assign_splits(frame(texts), DATA)["split"].to_list()
    assert assign_splits(frame(texts[:50]), DATA)["split"].to_list() == whole[:50]


def test_copy_of_a_held_out_prompt_under_another_task_never_trains():
    config = DATA.model_copy(update={"ood_tasks": ("law",)})
    tasks = ["law", "other"] + ["other"] * 50
    split = assign_splits(frame(["Same text", "same text."] + [f"q{i}" for i in range(50)], tasks), config)[
        "split"
    ]
    assert split.to_list()[:2] == ["ood", "ood"]
    assert "ood" not in split.to_list()[2:]


def test_unknown_held_out_task_is_named_with_those_that_exist():
    config = DATA.model_copy(update={"ood_tasks": ("lwa",)})
    with pytest.raises(InputError, match="no prompt has task 'lwa'; allowed: t"):
        assign_splits(frame(["a", "b"]), config)
