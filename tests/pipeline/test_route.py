from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline import route
from pipeline.compose import load_config, record_config
from pipeline.layout import RunLayout
from pipeline.tables import read_table, to_polars
from policies.bundle import RouterBundle
from policies.constants import BestSinglePolicy, RandomPolicy
from policies.costs import CostModel
from policies.encoder import encoder_identity
from policies.errors import InputError
from policies.pool import read_pool_file
from policies.preference import dial_grid
from policies.schemas import DECISIONS, PROMPTS

N_PROMPTS = 13


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The folder of a run of the example data that holds a policy, and a prompts table beside it."""
    root = tmp_path_factory.mktemp("runs")
    overrides = ["data=example", f"run.root={root}", f"run.dir={root}/run"]
    config = load_config(overrides)
    record_config(config, overrides)
    _save_bundle(config, RandomPolicy)
    frame = pl.DataFrame(
        {
            "prompt_id": [f"q{i}" for i in range(N_PROMPTS)],
            "question": [f"What is {i} plus {i}?" for i in range(N_PROMPTS)],
        }
    )
    frame.write_csv(root / "prompts.csv")
    return root / "run"


def _save_bundle(config, kind, **changes):
    pool = read_pool_file(config.pool.path).pool(config.pool.name)
    k = len(pool.models)
    policy = kind(pool.models)
    if kind is RandomPolicy and changes.pop("best_single", False):
        policy = BestSinglePolicy(pool.models, np.linspace(0.9, 0.2, k), np.linspace(0.8, 0.0, k))
    identity = encoder_identity("minilm", "auto", 256)
    bundle = RouterBundle(
        policy=policy,
        pool=pool,
        encoder=replace(identity, **changes),
        cost_model=CostModel(pool.prices_per_token_usd, 10.0, np.zeros(k)),
        tau_usd=0.01,
    )
    bundle.save(RunLayout.of(config).policy)
    return policy


def _route(run_dir, *overrides):
    output = run_dir.parent / "decisions.parquet"
    config = load_config(
        [
            f"run={run_dir}",
            f"data.prompts={run_dir.parent}/prompts.csv",
            "+data.columns.prompts.prompt=question",
            f"output={output}",
            f"encoder.store={run_dir.parent}/store",
            *overrides,
        ]
    )
    route.run(config)
    return to_polars(read_table(DECISIONS, str(output)))


def test_every_prompt_is_decided_over_the_dial_in_order(run_dir, ray_session):
    policy = _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy, best_single=True)
    decisions = _route(run_dir, "route.block_rows=5")
    assert decisions["prompt_id"].to_list() == [f"q{i}" for i in range(N_PROMPTS) for _ in dial_grid()]
    assert decisions["w_cost"].to_list() == dial_grid().tolist() * N_PROMPTS
    assert decisions["probability"].to_list() == [1.0] * len(decisions)
    w = np.stack([1.0 - dial_grid(), dial_grid()], axis=1)
    best = (w[:, :1] * policy.mean_scores - w[:, 1:] * policy.mean_cost_terms).argmax(axis=1)
    assert len(set(best)) > 1
    assert decisions["model"].to_list() == [policy.models[j] for j in best] * N_PROMPTS
    version = RouterBundle.load(run_dir / "policy").policy_version
    assert decisions["policy_version"].unique().to_list() == [version]


def test_sampled_decisions_do_not_depend_on_the_blocks(run_dir, ray_session):
    _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy)
    sample = ["route.decision=sample", "route.w_costs=[0.5,0.1]"]
    once = _route(run_dir, *sample, "route.block_rows=4")
    again = _route(run_dir, *sample, "route.block_rows=100")
    assert once.equals(again)
    assert once["w_cost"].to_list() == [0.1, 0.5] * N_PROMPTS
    np.testing.assert_allclose(once["probability"].to_numpy(), 0.1)
    assert once["model"].n_unique() > 3
    assert not once["model"].equals(_route(run_dir, *sample, "run.seed=1")["model"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "ab" * 32}, "abababababab"),
        ({"max_tokens": 128}, "128 tokens"),
    ],
)
def test_an_encoder_other_than_the_policys_is_refused(run_dir, changes, message):
    _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy, **changes)
    with pytest.raises(InputError, match=rf"trained on .*{message}"):
        _route(run_dir)


def test_another_backend_than_the_policys_is_refused(run_dir):
    _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy, backend="torch-bf16")
    with pytest.raises(InputError, match=r"trained on .*torch-bf16"):
        _route(run_dir, "encoder.backend=torch-fp32")


def test_a_run_without_a_policy_names_the_stage(tmp_path):
    config = load_config([f"run.dir={tmp_path}"])
    with pytest.raises(InputError, match="pipeline train"):
        route.run(config)


@pytest.mark.parametrize("name", ["decisions.csv", "prompts.csv/x.parquet"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(run_dir, name):
    _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy)
    with pytest.raises(InputError, match=r"output="):
        _route(run_dir, f"output={run_dir.parent}/{name}")


def test_a_policy_that_a_worker_cannot_load_is_a_users_error(run_dir, ray_session, tmp_path):
    """As on a cluster whose nodes do not see the run's folder: the driver has loaded the policy."""
    _save_bundle(load_config([f"run={run_dir}"]), RandomPolicy)
    prompts = pa.table([["q"], ["text"], [None]], schema=PROMPTS.schema)
    vectors, w_costs = np.zeros((1, 384), np.float32), np.array([0.5])
    with pytest.raises(InputError, match=str(tmp_path)):
        route._decide_all(prompts, vectors, w_costs, tmp_path / "policy", load_config([]))


def test_draws_follow_the_policys_probabilities():
    n = 20_000
    given = np.tile([0.0, 0.7, 0.3, 0.0], (n, 1))

    class Fixed(RandomPolicy):
        def action_probabilities(self, embeddings, preferences, eligible=None, *, prompt_tokens=None):
            return given

    uniforms = route.repeatable_uniforms([str(i) for i in range(n)], np.array([0.25]), seed=3)
    policy = Fixed(("a", "b", "c", "d"))
    actions, probabilities = route.decide(policy, np.zeros((n, 2)), np.ones(n), np.array([0.25]), uniforms)
    shares = np.bincount(actions[:, 0], minlength=4) / n
    np.testing.assert_allclose(shares, given[0], atol=4 * np.sqrt(0.25 / n))
    assert shares[0] == shares[3] == 0.0
    np.testing.assert_array_equal(probabilities[:, 0], given[0, actions[:, 0]])


def test_uniforms_are_uniform_and_differ_by_seed_prompt_and_setting():
    ids = [f"prompt-{i}" for i in range(5_000)]
    draws = route.repeatable_uniforms(ids, dial_grid(), seed=0)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert len(np.unique(draws)) == draws.size
    counts = np.histogram(draws, bins=20, range=(0.0, 1.0))[0]
    expected = draws.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.06
    assert not np.isin(route.repeatable_uniforms(ids, dial_grid(), seed=1), draws).any()
    np.testing.assert_array_equal(route.repeatable_uniforms(ids[7:9], dial_grid()[3:5], 0), draws[7:9, 3:5])


@pytest.mark.parametrize("row_group_rows", [1, 7, 1000])
def test_decisions_are_the_same_whatever_the_row_groups(monkeypatch, row_group_rows):
    monkeypatch.setattr(route, "ROW_GROUP_ROWS", row_group_rows)
    ids, w_costs = pa.chunked_array([["a", "b"], ["c"]]), np.array([0.0, 0.5, 1.0])
    actions = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.int16)
    probabilities = np.arange(9).reshape(3, 3) / 9
    table = pa.concat_tables(route.decisions_tables(ids, w_costs, actions, probabilities, ("m0", "m1"), "v"))
    rows = [(f"{p}", w) for p in "abc" for w in w_costs]
    assert list(zip(table["prompt_id"].to_pylist(), table["w_cost"].to_pylist(), strict=True)) == rows
    assert table["model"].to_pylist() == [f"m{action}" for action in actions.reshape(-1)]
    assert table["probability"].to_pylist() == probabilities.reshape(-1).tolist()
    assert set(table["policy_version"].to_pylist()) == {"v"}
