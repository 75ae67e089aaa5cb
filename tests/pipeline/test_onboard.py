"""A new model joins a trained LLM Bandit: from the prompts to ask it to a registered router over the larger pool."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient

from pipeline import onboard, train
from pipeline.__main__ import main
from pipeline.compose import load_config
from pipeline.config import TradewindConfig
from pipeline.join import load_outcomes
from pipeline.layout import RunLayout
from pipeline.onboarding.answers import read_answers
from pipeline.onboarding.fit import _selection
from pipeline.onboarding.newcomer import AskablePool, Newcomer, folder_name
from pipeline.onboarding.select import answer_tokens
from policies.bundle import EncoderIdentity, RouterBundle, TrainingMeans
from policies.constants import BestSinglePolicy
from policies.costs import CostModel
from policies.errors import InputError
from policies.llm_bandit.identity_vectors import ARM_ARRAYS
from policies.pool import ModelPool, ModelSpec, read_pool_file
from serve.registry import PREVIOUS
from tests.pipeline.test_train import mean_dial_reward, tables  # noqa: F401
from tests.pipeline.test_train_llm_bandit import quick
from tests.policies.llm_bandit_case import DIMENSION, TAU_USD, names, random_router, world

NEW = "team/fast"
POOL_YAML = """
models:
  team/fast: {input_price_per_mtok_usd: 0.2, output_price_per_mtok_usd: 0.5, context_window_tokens: 9000,
              endpoint: "http://fast/v1", tags: [text]}
  dear: {input_price_per_mtok_usd: 2.0, output_price_per_mtok_usd: 5.0}
  free: {input_price_per_mtok_usd: 0.0, output_price_per_mtok_usd: 0.0}
  cheap: {input_price_per_mtok_usd: 0.1, output_price_per_mtok_usd: 0.1}
  abacus: {kind: tool, price_per_call_usd: 0.002}
"""


@dataclass(frozen=True)
class Case:
    config: TradewindConfig
    layout: RunLayout
    pool: Path
    vectors: dict[str, np.ndarray]

    def configured(self, action, model=NEW, **keys):
        update = {"action": action, "model": model, "pool": str(self.pool), **keys}
        changed = self.config.onboard.model_copy(update=update)
        return self.config.model_copy(update={"onboard": changed})

    def onboard(self, action, model=NEW, **keys):
        return onboard.run(self.configured(action, model, **keys))

    def folder(self, model=NEW):
        return self.layout.root / "onboard" / folder_name(model)

    def answers(self, prompt_ids, path, **columns):
        """The new model answers where 'left' does: the first coordinate is negative."""
        right = np.array([self.vectors[prompt_id][0] > 0 for prompt_id in prompt_ids])
        frame = pl.DataFrame(
            {
                "prompt_id": prompt_ids,
                "model": [NEW] * len(prompt_ids),
                "score": (~right).astype(float),
                "cost_usd": np.full(len(prompt_ids), 1e-4),
                "latency_s": np.full(len(prompt_ids), 0.5),
            }
        ).with_columns(**columns)
        frame.write_parquet(path)
        return str(path)


@pytest.fixture(scope="module")
def case(ray_session, tables, tmp_path_factory):  # noqa: F811
    root = tmp_path_factory.mktemp("onboard")
    config, layout = quick(tables, root / "run", "policy.ppo.iterations=0", f"run.root={root}")
    train.run(config)
    (root / "new.yaml").write_text(POOL_YAML)
    vectors = dict(zip(tables[1].prompt_ids.tolist(), tables[1].vectors))
    return Case(config, layout, root / "new.yaml", vectors)


@pytest.fixture(scope="module")
def asked(case):
    return case.onboard("select", n_prompts=40)


@pytest.fixture(scope="module")
def onboarded(case, asked, tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "answers.parquet"
    return case.onboard("fit", outcomes=case.answers(asked["prompt_id"].to_list(), path))


@pytest.fixture(scope="module")
def larger(case, onboarded):
    return RouterBundle.load(case.folder() / "policy")


def test_the_prompts_to_ask_are_training_prompts_from_easy_to_hard(case, asked):
    splits = dict(pl.read_parquet(case.layout.splits).select("prompt_id", "split").iter_rows())
    assert asked["prompt_id"].n_unique() == asked.height == 40
    assert {splits[prompt_id] for prompt_id in asked["prompt_id"]} == {"train"}
    assert asked["stratum"].is_sorted()
    assert asked["stratum"].value_counts()["count"].to_list() == [4] * 10


def test_the_written_tables_hold_what_is_asked(case, asked):
    assert pl.read_parquet(case.folder() / "prompts.parquet").equals(asked)
    lines = (case.folder() / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == asked["prompt"].to_list()
    record = json.loads((case.folder() / "selection.json").read_text())
    assert record["expected_cost_usd"] == pytest.approx(asked["expected_cost_usd"].sum())
    assert record["expected_cost_usd_tersest"] < record["expected_cost_usd"]
    assert record["expected_cost_usd"] < record["expected_cost_usd_longest"]


def test_the_expected_price_is_that_of_the_new_models_tokens(asked):
    by_hand = (asked["expected_prompt_tokens"] * 0.2 + asked["expected_answer_tokens"] * 0.5) / 1e6
    np.testing.assert_allclose(asked["expected_cost_usd"], by_hand)
    # Known models' answers cost about 8e-4 USD at 4 USD per million tokens.
    assert 100 < asked["expected_answer_tokens"].mean() < 400


def test_prices_scale_the_expected_price_and_choose_nothing(case, asked):
    dear = case.onboard("select", "dear", n_prompts=40)
    assert dear["prompt_id"].equals(asked["prompt_id"])
    np.testing.assert_allclose(dear["expected_cost_usd"], 10.0 * asked["expected_cost_usd"])


def test_the_known_models_recorded_scores_are_at_hand(case):
    pool = Newcomer.of(case.configured("select")).askable()
    recorded = pl.read_parquet(case.layout.outcomes).filter(pl.col("model") == "left")
    expected = dict(recorded.select("prompt_id", "score").iter_rows())
    column = RouterBundle.load(case.layout.policy).pool.models.index("left")
    found = dict(zip(pool.table["prompt_id"], pool.known_scores[:, column], strict=True))
    assert found == {prompt_id: expected[prompt_id] for prompt_id in found}


def test_a_tool_costs_its_calls(case):
    asked = case.onboard("select", "abacus", n_prompts=7)
    assert asked["expected_cost_usd"].sum() == pytest.approx(7 * 0.002)


def test_the_command_line_takes_the_action_as_a_word(case, capsys):
    words = ["onboard", "select", f"run.dir={case.layout.root}", f"onboard.pool={case.pool}"]
    assert main([*words, "onboard.model=free", "onboard.n_prompts=5", "onboard.selection=random"]) == 0
    assert "expected price 0 USD" in capsys.readouterr().out
    assert main(["onboard", f"run.dir={case.layout.root}"]) == 2
    assert "allowed: onboard select, onboard fit" in capsys.readouterr().err


def test_routing_pays_more_with_the_new_model(case, larger):
    """It answers what 'left' answers at an eighth of the price."""
    data = load_outcomes(case.layout, case.config, ("test",))
    base = RouterBundle.load(case.layout.policy)
    left = data.scores[:, base.pool.models.index("left"), None]
    with_new = replace(
        data,
        scores=np.hstack([data.scores, left]),
        costs_usd=np.hstack([data.costs_usd, np.full_like(left, 1e-4)]),
    )
    gained = mean_dial_reward(larger.policy, with_new, base.tau_usd)
    assert gained > mean_dial_reward(base.policy, data, base.tau_usd) + 0.02


def test_nothing_that_was_known_changes(case, larger):
    base = RouterBundle.load(case.layout.policy)
    for name in ARM_ARRAYS:
        np.testing.assert_array_equal(getattr(larger.policy.arms, name)[:3], getattr(base.policy.arms, name))
    np.testing.assert_array_equal(
        larger.cost_model.mean_output_cost_usd[:3], base.cost_model.mean_output_cost_usd
    )
    assert larger.pool.specs[:3] == base.pool.specs
    assert larger.encoder == base.encoder


def test_costs_and_latency_of_the_new_model_are_those_of_its_answers(larger):
    assert larger.cost_model.mean_output_cost_usd[3] == pytest.approx(1e-4, rel=0.1)
    assert larger.training_means == TrainingMeans(
        (*larger.training_means.scores[:3], None), (*larger.training_means.latencies_s[:3], 0.5)
    )


def test_the_new_pool_version_says_where_it_comes_from(case, larger):
    base = RouterBundle.load(case.layout.policy)
    pool = read_pool_file(case.folder() / "pool.yaml").pool(larger.pool.name)
    assert pool == larger.pool
    assert pool.specs[3].endpoint == "http://fast/v1"
    (record,) = larger.notes["onboarded"]
    assert record["base_policy_version"] == base.policy_version != larger.policy_version
    assert (record["n_scores"], record["n_costs"], record["selection"]) == (40, 40, "informative")
    assert record["logit_std"] > record["known_logit_std"] > 0


def test_it_is_registered_as_challenger_and_no_champion_moves(case, larger, onboarded, tmp_path):
    client = MlflowClient(onboarded.tracking_uri, onboarded.tracking_uri)
    version = client.get_model_version_by_alias("tradewind-router", "challenger")
    assert version.tags["policy_version"] == larger.policy_version
    assert version.tags["model"] == NEW
    # Another challenger is no champion either: a rollback must not lead to the first.
    asked = case.onboard("select", n_prompts=20)
    again = case.onboard(
        "fit", outcomes=case.answers(asked["prompt_id"].to_list(), tmp_path / "answers.parquet")
    )
    assert again.version != onboarded.version
    aliases = client.get_registered_model("tradewind-router").aliases
    assert set(aliases) == {"challenger"}
    assert PREVIOUS not in aliases


def test_a_further_model_joins_the_larger_pool(case, onboarded):
    folder = case.folder()
    config = load_config(
        [
            f"run={folder}",
            "onboard.action=select",
            "onboard.model=dear",
            f"onboard.pool={case.pool}",
            "onboard.n_prompts=5",
        ]
    )
    assert onboard.run(config).height == 5
    assert (folder / "onboard" / "dear" / "prompts.parquet").exists()


def test_costs_follow_from_tokens_and_held_out_answers_are_not_learned_from(case, asked, tmp_path, capsys):
    splits = pl.read_parquet(case.layout.splits)
    held_out = splits.filter(pl.col("split") == "test")["prompt_id"].head(3).to_list()
    path = case.answers(
        asked["prompt_id"].to_list() + held_out,
        tmp_path / "answers.parquet",
        cost_usd=pl.lit(None, pl.Float64),
        prompt_tokens=pl.lit(100),
        completion_tokens=pl.lit(160),
    )
    config = case.configured("fit", outcomes=path)
    answers = read_answers(config, Newcomer.of(config))
    assert "3 of 43 answers are to held-out prompts" in capsys.readouterr().out
    assert answers["prompt_id"].equals(asked["prompt_id"])
    assert answers["cost_usd"].to_list() == pytest.approx([1e-4] * 40)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"model": pl.lit("left")}, "row 1, column 'model': 'left'; allowed: 'team/fast'"),
        ({"score": pl.lit(1.5)}, r"row 1, column 'score': 1.5; allowed: \[0, 1\]"),
        (
            {"prompt_id": pl.concat_str(pl.lit("x"), "prompt_id")},
            "row 1, column 'prompt_id': 'xp.*' is no prompt of the run",
        ),
        ({"score": pl.lit(None, pl.Float64)}, "0 answers of 'team/fast' to training prompts have a score"),
    ],
)
def test_bad_answers_are_named(case, asked, tmp_path, columns, message):
    path = case.answers(asked["prompt_id"].to_list(), tmp_path / "answers.parquet", **columns)
    with pytest.raises(InputError, match=message):
        case.onboard("fit", outcomes=path)


@pytest.mark.parametrize(
    ("action", "model", "keys", "message"),
    [
        ("select", None, {}, "onboard.model is not set"),
        ("select", "cheap", {}, "onboard.model=cheap: is in the pool of .* already"),
        ("select", "absent", {}, "onboard.model=absent: has no entry in .*new.yaml"),
        (
            "select",
            NEW,
            {"selection": "best"},
            "onboard.selection=best: no such strategy; allowed: stratified",
        ),
        ("select", NEW, {"n_prompts": 9999}, "onboard.n_prompts=9999: the run has .* training prompts"),
        ("fit", NEW, {}, "onboard.outcomes is not set"),
    ],
)
def test_bad_requests_are_named(case, action, model, keys, message):
    with pytest.raises(InputError, match=message):
        case.onboard(action, model, **keys)


@pytest.mark.parametrize("model", ["team/fast", "..", "../../policy", ".hidden", "a b%2F"])
def test_any_name_gives_a_folder_of_its_own(model):
    name = folder_name(model)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name != model
    assert folder_name("gpt-4.1_mini") == "gpt-4.1_mini"


def test_a_router_for_a_fixed_pool_takes_no_model(case, tmp_path):
    base = RouterBundle.load(case.layout.policy)
    policy = BestSinglePolicy(base.pool.models, np.full(3, 0.5), np.full(3, 0.1))
    fixed = RouterBundle(policy, base.pool, base.encoder, base.cost_model, base.tau_usd)
    fixed.save(tmp_path / "policy")
    config = load_config([f"run.dir={tmp_path}", "onboard.action=select", f"onboard.model={NEW}"])
    with pytest.raises(InputError, match="a policy of kind 'best_single', which is trained for a fixed pool"):
        onboard.run(config)


def bare(root, *, mode="simulated_online", price_per_call_usd=0.0):
    """A new model and a router that no training made, over the run folder ``root``."""
    specs = tuple(ModelSpec(name, 1.0, 4.0, price_per_call_usd=price_per_call_usd) for name in names(2))
    pool, policy = ModelPool("two", specs), random_router(2)
    costs = CostModel(pool.prices_per_token_usd, 50.0, np.full(2, 1e-3))
    encoder = EncoderIdentity("planted", "0" * 64, "torch-fp32", DIMENSION)
    bundle = RouterBundle(policy, pool, encoder, costs, TAU_USD, notes={"mode": mode})
    return Newcomer(ModelSpec(NEW, 0.2, 0.5), RunLayout(root), bundle, policy, root / "onboard" / "new")


def test_a_router_of_a_log_is_helped_by_that_log_alone(tmp_path):
    (tmp_path / "tables").mkdir()
    rows = pl.DataFrame(
        {
            "prompt_id": ["a", "a", "b"],
            "model": ["m0", "m1", "m0"],
            "score": [1.0, 0.0, 1.0],
            "cost_usd": [0.1] * 3,
        }
    )
    rows.write_parquet(tmp_path / "tables" / "outcomes.parquet")
    rows.head(1).with_columns(
        event_id=pl.lit("e"),
        timestamp=pl.lit("2026-01-01T00:00:00Z").str.to_datetime(time_zone="UTC"),
        w_quality=0.5,
        w_cost=0.5,
        eligible=pl.lit(["m0", "m1"]),
        propensity=0.5,
        policy_version=pl.lit("log"),
    ).write_parquet(tmp_path / "tables" / "feedback.parquet")
    ids = pl.Series(["a", "b"])
    for mode, expected in (
        ("simulated_online", [[1.0, 0.0], [1.0, np.nan]]),
        ("logged", [[1.0, np.nan], [np.nan, np.nan]]),
    ):
        np.testing.assert_array_equal(bare(tmp_path, mode=mode)._known_scores(ids), expected)


def test_a_price_per_call_is_no_part_of_an_answer_s_length(tmp_path):
    rows, _ = world(n=20, n_models=2)
    pool = AskablePool(pl.DataFrame(), rows.embeddings, rows.prompt_tokens, rows.scores)
    by_tokens, with_calls = (
        answer_tokens(bare(tmp_path, price_per_call_usd=usd), pool, np.arange(20)) for usd in (0.0, 1e-4)
    )
    np.testing.assert_allclose(with_calls, np.maximum(by_tokens - 1e-4 / 4e-6, 0.0))


def test_a_selection_is_remembered_only_where_it_chose_every_prompt(tmp_path):
    newcomer, (rows, _) = bare(tmp_path), world(n=5, n_models=1)
    assert _selection(newcomer, rows) is None
    newcomer.folder.mkdir(parents=True)
    newcomer.selection.write_text('{"selection": "stratified"}')
    pl.DataFrame({"prompt_id": rows.prompt_ids[:4]}).write_parquet(newcomer.prompts)
    assert _selection(newcomer, rows.rows(np.arange(4))) == "stratified"
    assert _selection(newcomer, rows) is None
