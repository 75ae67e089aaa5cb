"""Paraphrases: what says the same is grouped, what differs is not, and no group is parted by a split."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from pipeline import embed, ingest, paraphrases
from pipeline.compose import load_config
from pipeline.layout import RunLayout
from pipeline.paraphrases import group_prompts, numbers_in
from pipeline.splits import OOD, join_groups
from policies.errors import InputError
from tests.pipeline.evaluation_case import POOL

MIN_COSINE = load_config([]).data.split.paraphrase_cosine or 1.0

PARAPHRASES = [
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("What is the capital of France?", "Which city is the capital of France?"),
    ("Write a Python function that reverses a string.", "Please write a function in Python to reverse a string."),
    ("Explain how photosynthesis works.", "Can you explain the way photosynthesis works?"),
    ("What are the side effects of ibuprofen?", "Which side effects does ibuprofen have?"),
    ("Summarise the plot of Hamlet in 3 sentences.", "In 3 sentences, give me a summary of Hamlet's plot."),
    ("A train covers 60 km in 2 hours. What is its speed?", "What is the speed of a train covering 60 km in 2 hours?"),
    ("Who wrote Pride and Prejudice?", "Who is the author of Pride and Prejudice?"),
    ("Why is the sky blue?", "What makes the sky look blue?"),
    ("What causes inflation to rise?", "What are the causes of rising inflation?"),
]  # fmt: skip
DIFFERENT = [
    "What is the capital of Germany?",
    "Write a Python function that reverses a list.",
    "Explain how respiration works.",
    "Summarise the plot of Hamlet in 5 sentences.",
    "A train covers 90 km in 2 hours. What is its speed?",
    "Who wrote Sense and Sensibility?",
]


@pytest.fixture(scope="module")
def encode():
    from policies.encoder import load_encoder

    return load_encoder("minilm", "torch-fp32", 256, 4096, threads=1).encode


def partition(labels, rows):
    groups = defaultdict(list)
    for label, row in zip(labels, rows):
        groups[label].append(int(row))
    return sorted(sorted(g) for g in groups.values())


def blobs(n_groups, seed=0, dimension=8):
    """Return tight pairs in random directions, with texts that differ in every word."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_groups, dimension))
    vectors = np.repeat(centres, 2, axis=0) + 1e-3 * rng.normal(size=(2 * n_groups, dimension))
    return [f"{chr(97 + i % 26)}{'x' * (i // 26)}" for i in range(2 * n_groups)], vectors


def test_written_paraphrases_are_grouped_and_other_questions_are_not(encode):
    texts = [text for pair in PARAPHRASES for text in pair] + DIFFERENT
    groups = group_prompts(texts, encode(texts), MIN_COSINE)
    n = len(PARAPHRASES)
    expected = [[2 * i, 2 * i + 1] for i in range(n)] + [[2 * n + i] for i in range(len(DIFFERENT))]
    assert partition(groups.labels, range(len(texts))) == expected


def test_embed_leaves_no_paraphrase_on_both_sides(encode, ray_session, tmp_path):
    texts = [text for pair in PARAPHRASES for text in pair]
    filler = [f"Tell me about topic {i}" for i in range(40)]
    ids = [f"p{i}" for i in range(len(texts) + len(filler))]
    tasks = ["held" if i == 1 else "chat" for i in range(len(ids))]
    table = pl.DataFrame({"prompt_id": ids, "prompt": texts + filler, "task": tasks})
    table.write_csv(tmp_path / "prompts.csv")
    rows = [{"prompt_id": i, "model": m, "score": 1.0, "cost": 0.001} for i in ids for m in POOL.models]
    pl.DataFrame(rows).write_csv(tmp_path / "outcomes.csv")
    POOL.write(tmp_path / "pool.yaml")
    config = load_config(
        [
            *(
                "data=tables",
                f"data.prompts={tmp_path}/prompts.csv",
                f"data.outcomes={tmp_path}/outcomes.csv",
            ),
            *(
                f"pool={tmp_path}/pool.yaml",
                "pool.name=tiny",
                "data.ood_tasks=[held]",
                f"run.dir={tmp_path}/run",
            ),
            *(f"encoder.store={tmp_path}/store", "encoder.backend=torch-fp32"),
            *("data.split.train=0.5", "data.split.validation=0.25", "data.split.test=0.25"),
        ]
    )
    ingest.run(config)
    layout = RunLayout.of(config)
    alone = pl.read_parquet(layout.splits)["split"].to_list()
    assert any(alone[2 * i] != alone[2 * i + 1] for i in range(len(PARAPHRASES))), (
        "the test would prove nothing"
    )
    embed.run(config)
    joined = pl.read_parquet(layout.splits)["split"].to_list()
    assert [joined[2 * i] for i in range(10)] == [joined[2 * i + 1] for i in range(10)]
    assert joined[0] == joined[1] == OOD, "a paraphrase of a held-out task's prompt is held out"
    assert joined[20:] == alone[20:], "prompts without paraphrases stay where they were"
    before = layout.splits.read_bytes()
    embed.run(config)
    assert layout.splits.read_bytes() == before


def test_numbers_tell_template_prompts_apart():
    assert numbers_in("What is 3 + 4?") == numbers_in("Sum of 4 and 3") == ("3", "4")
    assert numbers_in("1,000 and 2.5") == ("1000", "2.5")
    same = np.ones((2, 4))
    assert len(set(group_prompts(["What is 3 + 4?", "What is 5 + 9?"], same, 0.9).labels)) == 2


def test_groups_do_not_depend_on_the_order_of_rows():
    texts, vectors = blobs(60)
    rows = np.random.default_rng(1).permutation(len(texts))
    whole = group_prompts(texts, vectors, 0.95).labels
    shuffled = group_prompts([texts[i] for i in rows], vectors[rows], 0.95).labels
    assert partition(whole, range(len(texts))) == partition(shuffled, rows)
    assert max(map(len, partition(whole, range(len(texts))))) == 2


@pytest.mark.parametrize("constant", ["BLOCK_ENTRIES", "FEW", "DENSE"])
def test_every_way_of_comparing_gives_the_same_groups(monkeypatch, constant):
    texts, vectors = blobs(100, dimension=200)
    expected = group_prompts(texts, vectors, 0.9).labels
    monkeypatch.setattr(paraphrases, constant, {"BLOCK_ENTRIES": 999, "FEW": 1, "DENSE": 0.0}[constant])
    assert group_prompts(texts, vectors, 0.9).labels.tolist() == expected.tolist()


def test_no_pair_of_near_prompts_is_parted_within_a_group_that_is_small_enough():
    # A chain: neighbours are near, its ends are not.
    angle = np.arange(15) * 0.3
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = group_prompts([chr(97 + i) for i in range(15)], vectors, np.cos(0.31)).labels
    assert len(set(labels)) == 1


def test_a_template_does_not_swallow_the_table_but_copies_stay_together():
    texts = [f"word {chr(97 + i % 26)}{'y' * (i // 26)}" for i in range(300)]
    groups = group_prompts(texts + [t.upper() + "!" for t in texts], np.ones((600, 4)), 0.9)
    assert len(set(groups.labels)) == 300
    assert groups.labels[:300].tolist() == groups.labels[300:].tolist()


def test_prompts_too_many_to_compare_are_counted(monkeypatch):
    monkeypatch.setattr(paraphrases, "MAX_COMPARED", 10)
    texts, vectors = blobs(10)
    groups = group_prompts(texts, vectors, 0.95)
    assert groups.n_not_compared == 20
    assert len(set(groups.labels)) == 20


def test_groups_are_dealt_in_the_shares_of_prompts():
    rng = np.random.default_rng(0)
    n = 6000
    splits = rng.choice(["train", "validation", "test"], size=n, p=[0.8, 0.1, 0.1]).astype(object)
    keys = np.array([f"k{i}" for i in range(n)], dtype=object)
    joined = join_groups(splits, keys, np.arange(n) // 3, "salt")
    assert abs((joined == "train").mean() - 0.8) < 0.03
    assert (joined.reshape(-1, 3) == joined.reshape(-1, 3)[:, :1]).all()


def test_grouping_that_leaves_nothing_to_train_on_is_bad_input():
    splits = np.array(["train", "ood"], dtype=object)
    with pytest.raises(InputError, match="paraphrase_cosine"):
        join_groups(splits, np.array(["a", "b"], dtype=object), np.array([0, 0]), "salt")
