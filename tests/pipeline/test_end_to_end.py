"""From raw tables to a registered policy and batch decisions, with every stage real."""

import json

import polars as pl
import pytest

from pipeline.__main__ import main
from pipeline.example import generate_example
from policies.bundle import RouterBundle
from policies.pool import read_pool_file

POOL = "conf/pools/example.yaml"


@pytest.fixture(scope="module")
def finished_run(ray_session, tmp_path_factory):
    root = tmp_path_factory.mktemp("end_to_end")
    specs = read_pool_file(POOL).specs
    models = {name: spec for name, spec in specs.items() if spec.kind == "model"}
    prices = {m: (s.input_price_per_mtok_usd, s.output_price_per_mtok_usd) for m, s in models.items()}
    example = generate_example(300, 0, prices=prices)
    example.prompts.write_parquet(root / "prompts.parquet")
    # The public benchmarks say `cost`.
    example.outcomes.rename({"cost_usd": "cost"}).write_parquet(root / "outcomes.parquet")
    code = main(
        [
            "run",
            "data=tables",
            f"data.prompts={root}/prompts.parquet",
            f"data.outcomes={root}/outcomes.parquet",
            f"pool={POOL}",
            "pool.name=budget",
            "train.mode=logged",
            "data.ood_tasks=[open_writing]",
            f"run.dir={root}/runs/it",
            f"run.root={root}/runs",
            "evaluate.bootstrap_samples=50",
        ]
    )
    assert code == 0
    return root / "runs" / "it"


def test_run_leaves_config_metrics_report_and_policy(finished_run):
    for name in (
        "config.yaml",
        "metrics.json",
        "report.html",
        "report.png",
        "history.jsonl",
        "policy/VERSION",
    ):
        assert (finished_run / name).stat().st_size > 0, name
    assert not list(finished_run.rglob("*.tmp"))


def test_champion_is_the_trained_policy(finished_run):
    registered = json.loads((finished_run / "registered.json").read_text())
    assert registered["alias"] == "champion"
    assert registered["policy_version"] == RouterBundle.load(finished_run / "policy").policy_version


def test_logged_mode_learned_from_one_event_a_prompt(finished_run):
    log = pl.read_parquet(finished_run / "tables" / "feedback.parquet")
    assert log["prompt_id"].is_unique().all()
    assert log["propensity"].max() <= 1.0


def test_metrics_cover_held_out_prompts_and_held_out_tasks(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert set(metrics["headline"]) == {"test", "ood"}


def test_the_policy_is_known_to_have_learned_from_the_runs_own_rows(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert [c["state"] for c in metrics["health"] if c["name"] == "other_training"] == ["ok"]


def test_route_decides_another_table_over_the_whole_dial(finished_run, tmp_path):
    prompts = pl.DataFrame({"prompt_id": ["x", "y"], "prompt": ["What is 2 + 2?", "Write a poem."]})
    prompts.write_csv(tmp_path / "new.csv")
    code = main(
        ["route", f"run={finished_run}", f"data.prompts={tmp_path}/new.csv", f"output={tmp_path}/d.parquet"]
    )
    assert code == 0
    decisions = pl.read_parquet(tmp_path / "d.parquet")
    assert decisions.columns == ["prompt_id", "w_cost", "model", "probability", "policy_version"]
    assert decisions.group_by("prompt_id").len()["len"].to_list() == [21, 21]
    assert set(decisions["model"]) <= set(read_pool_file(POOL).pool("budget").models)


def test_training_again_with_the_same_seed_gives_the_same_policy(finished_run):
    before = (finished_run / "policy" / "VERSION").read_text()
    assert main(["train", f"run={finished_run}"]) == 0
    assert (finished_run / "policy" / "VERSION").read_text() == before


def test_second_embedding_encodes_nothing(finished_run, capsys):
    assert main(["embed", f"run={finished_run}"]) == 0
    assert "0 to encode" in capsys.readouterr().out
