"""From a benchmark's name to the tables of a run: the commands, the registry, downloads, and the ban on training."""

import json
from typing import get_args

import huggingface_hub.constants
import polars as pl
import pytest
import yaml

from pipeline import ingest
from pipeline.__main__ import main
from pipeline.compose import CONF_DIR, load_config, record_config
from pipeline.config.data import Benchmark
from pipeline.layout import RunLayout
from pipeline.loaders.pricing import price_missing
from pipeline.loaders.registry import LOADERS
from pipeline.provenance import Provenance, provenance_path, read_provenance, refuse_training
from pipeline.tables import read_table
from policies.errors import InputError
from policies.pool import ModelSpec, PoolFile
from policies.schemas import OUTCOMES, PROMPTS

N_PROMPTS = 40
NOTE = "1 of 80 costs are missing in the source: priced from the pool"
HUBS = {name: loader.hub.repo_id for name, loader in LOADERS.items() if loader.hub}


@pytest.fixture
def pool_path(tmp_path):
    path = tmp_path / "pool.yaml"
    prices = {model: {"input": 1.0, "output": 2.0} for model in ("m1", "m2")}
    path.write_text(yaml.safe_dump({"prices": prices}))
    return path


@pytest.fixture
def routerbench_csv(tmp_path):
    path = tmp_path / "routerbench_0shot.csv"
    numbers = range(N_PROMPTS)
    pl.DataFrame(
        {
            "sample_id": [f"s{i}" for i in numbers],
            "prompt": [f"['Question {i}?']" for i in numbers],
            "eval_name": ["mmlu" if i % 2 else "mbpp" for i in numbers],
            "m1": [i % 2 for i in numbers],
            "m2": [0.5] * N_PROMPTS,
            "m1|total_cost": [0.1] * N_PROMPTS,
            "m2|total_cost": [None if i == 0 else 0.2 for i in numbers],
        }
    ).write_csv(path)
    return path


@pytest.fixture
def arena(tmp_path):
    rows = [
        {
            "global_index": f"{'AIME' if i % 2 else 'HLE'}_{i}",
            "question": f"Solve {i}",
            "llm_selected": model,
            "generated_answer": "1",
            "token_usage": {"input_tokens": 1, "output_tokens": 1},
            "success": True,
            "evaluation_result": {"score": 1.0, "metric": "m", "inference_cost": 0.1},
        }
        for i in range(N_PROMPTS)
        for model in ("m1", "m2")
    ]
    path = tmp_path / "arena.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_registry_and_configuration_name_the_same_benchmarks():
    assert set(LOADERS) == set(get_args(Benchmark))


@pytest.mark.parametrize(
    "form",
    [
        ("data=benchmark", "data.benchmark=routerbench", "data.path={path}"),
        ("source=routerbench", "path={path}"),
    ],
)
def test_both_forms_of_the_command_write_the_tables(form, routerbench_csv, pool_path, tmp_path, capsys):
    overrides = [part.format(path=routerbench_csv) for part in form]
    run_dir = tmp_path / "run"
    assert main(["ingest", *overrides, f"pool={pool_path}", f"run.dir={run_dir}"]) == 0
    layout = RunLayout(run_dir)
    prompts = read_table(PROMPTS, str(layout.prompts))
    outcomes = read_table(OUTCOMES, str(layout.outcomes), models=["m1", "m2"])
    assert (prompts.num_rows, outcomes.num_rows) == (N_PROMPTS, 2 * N_PROMPTS)
    assert outcomes["cost_estimated"].to_pylist().count(True) == 1
    assert set(pl.read_parquet(layout.splits)["split"]) == {"train", "validation", "test"}
    assert NOTE in capsys.readouterr().out
    assert load_config([f"run={run_dir}"]).data.path == str(routerbench_csv), "the run remembers its source"


def test_short_form_composes_to_the_long_one(tmp_path):
    short = load_config(["source=sprout", f"path={tmp_path}"])
    long = load_config(["data=benchmark", "data.benchmark=sprout", f"data.path={tmp_path}"])
    assert short == long
    assert load_config(["source=example"]) == load_config([])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=routrbench"], "data.benchmark='routrbench': Input should be 'routerbench'"),
        (["data=benchmark"], "data.benchmark is not set; allowed: routerbench, llmrouterbench"),
        (["path=x"], "path=x: belongs to source=NAME"),
        (["data.path=x"], "data.path belongs to data=benchmark and would be ignored by 'example'"),
        (["source=_base"], "data.benchmark='_base'"),
    ],
)
def test_wrong_source_is_told_before_any_work(overrides, message):
    with pytest.raises(InputError) as caught:
        load_config(overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", list(HUBS))
def test_download_without_network_offers_a_path(name, pool_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["ingest", f"source={name}", f"pool={pool_path}", f"run.dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"data.benchmark={name}: {HUBS[name]} could not be downloaded (offline" in error
    assert "give data.path=PATH" in error
    assert not (tmp_path / "run" / "tables").exists()


@pytest.mark.parametrize("name", [name for name, loader in LOADERS.items() if not loader.hub])
def test_source_that_is_not_on_the_hub_says_where_it_is(name, pool_path, tmp_path):
    config = load_config([f"source={name}", f"pool={pool_path}", f"run.dir={tmp_path / 'run'}"])
    with pytest.raises(
        InputError, match=r"cannot be downloaded by name; get the files from .* give data\.path"
    ):
        ingest.run(config)


def test_download_by_name_reads_the_hubs_cache(pool_path, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    snapshot = cache / "datasets--CARROT-LLM-Routing--SPROUT" / "snapshots" / ("0" * 40)
    (snapshot / "data").mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    cell = {"score": 1.0, "num_input_tokens": 1, "num_output_tokens": 1, "response": "x"}
    frame = {
        "prompt": [f"P{i}" for i in range(N_PROMPTS)],
        "m1": [cell] * N_PROMPTS,
        "m2": [cell] * N_PROMPTS,
    }
    pl.DataFrame(frame).write_parquet(snapshot / "data" / "train-00000-of-00001.parquet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    config = load_config(["source=sprout", f"pool={pool_path}", f"run.dir={tmp_path / 'run'}"])
    ingest.run(config)
    assert pl.read_parquet(RunLayout.of(config).outcomes).height == 2 * N_PROMPTS


@pytest.mark.parametrize("path", ["missing", "s3://bucket/x"])
def test_path_that_cannot_be_read(path, pool_path, tmp_path):
    where = path if "://" in path else str(tmp_path / path)
    config = load_config(["source=ulab", f"path={where}", f"pool={pool_path}", f"run.dir={tmp_path / 'r'}"])
    with pytest.raises(InputError, match=r"data\.path="):
        ingest.run(config)


def test_model_of_the_pool_that_the_benchmark_lacks(routerbench_csv, pool_path, tmp_path):
    pool_path.write_text(pool_path.read_text() + "  m3: {input: 1, output: 1}\n")
    config = load_config(
        ["source=routerbench", f"path={routerbench_csv}", f"pool={pool_path}", f"run.dir={tmp_path / 'r'}"]
    )
    with pytest.raises(InputError, match=r"data\.benchmark=routerbench: no row of model 'm3'"):
        ingest.run(config)


def test_evaluation_only_source_is_refused_for_training(arena, routerbench_csv, pool_path, tmp_path):
    common = [f"pool={pool_path}", f"run.dir={tmp_path / 'run'}"]
    config = load_config(["source=routerarena", f"path={arena}", *common])
    layout = RunLayout.of(config)
    ingest.run(load_config(["source=routerarena", f"path={arena}", "data.ood_tasks=[AIME]", *common]))
    assert set(pl.read_parquet(layout.splits)["split"]) == {"test", "ood"}
    ingest.run(config)
    assert set(pl.read_parquet(layout.splits)["split"]) == {"test"}, "nothing to train or choose on"
    with pytest.raises(InputError, match=r"source\.json: 'routerarena' is for evaluation only"):
        refuse_training(layout)
    ingest.run(load_config(["source=routerbench", f"path={routerbench_csv}", *common]))
    refuse_training(layout)
    assert read_provenance(layout) == Provenance("routerbench", notes=(NOTE,))


def test_damaged_provenance_is_no_permission(tmp_path):
    layout = RunLayout(tmp_path)
    refuse_training(layout)
    provenance_path(layout).parent.mkdir()
    provenance_path(layout).write_text('{"source": "routerarena"')
    with pytest.raises(InputError, match=r"source\.json: damaged"):
        refuse_training(layout)


def test_own_tables_may_carry_the_mark_and_need_not(pool_path, tmp_path):
    pl.DataFrame(
        {"prompt_id": [str(i) for i in range(20)], "prompt": [f"p{i}" for i in range(20)]}
    ).write_csv(tmp_path / "prompts.csv")
    rows = [(str(i), model, 0.5, 0.1) for i in range(20) for model in ("m1", "m2")]
    outcomes = pl.DataFrame(rows, schema=["prompt_id", "model", "score", "cost"], orient="row")
    overrides = [
        "data=tables",
        f"data.prompts={tmp_path / 'prompts.csv'}",
        f"data.outcomes={tmp_path / 'outcomes.parquet'}",
        f"pool={pool_path}",
        f"run.dir={tmp_path / 'run'}",
    ]
    config = load_config(overrides)
    for frame, expected in (
        (outcomes, {None}),
        (outcomes.with_columns(cost_estimated=pl.col("model") == "m1"), {True, False}),
    ):
        frame.write_parquet(tmp_path / "outcomes.parquet")
        ingest.run(config)
        assert set(pl.read_parquet(RunLayout.of(config).outcomes)["cost_estimated"]) == expected
    assert read_provenance(RunLayout.of(config)) == Provenance("tables")


def test_recorded_overrides_hold_no_short_form(routerbench_csv, pool_path, tmp_path):
    overrides = [
        "source=routerbench",
        f"path={routerbench_csv}",
        f"pool={pool_path}",
        f"run.dir={tmp_path / 'r'}",
    ]
    config = load_config(overrides)
    record_config(config, overrides)
    recorded = yaml.safe_load((tmp_path / "r" / "overrides.yaml").read_text())
    assert f"data.path={routerbench_csv}" in recorded
    assert not any(line.startswith(("source=", "path=")) for line in recorded)
    assert load_config([f"run={tmp_path / 'r'}"]).data == config.data


def test_answer_of_unknown_length_is_as_long_as_the_models_others():
    rows = pl.DataFrame(
        {
            "prompt_id": ["a", "b", "a", "a"],
            "model": ["m1", "m1", "m2", "m3"],
            "score": [1.0, 1.0, 1.0, None],
            "cost_usd": [None, None, 0.0, None],
            "prompt_tokens": [10.0, 10.0, None, None],
            "completion_tokens": [None, 30.0, None, None],
            "response_chars": [None, None, None, None],
        },
        schema_overrides={"response_chars": pl.Float64},
    )
    prompts = pl.DataFrame({"prompt_id": ["a", "b"], "prompt": ["x", "y"]})
    pool = PoolFile("p", {m: ModelSpec(m, 1.0, 2.0) for m in ("m1", "m2", "m3")}, {})
    priced = price_missing(rows, prompts, pool)
    assert priced["cost_usd"].to_list() == pytest.approx([70e-6, 70e-6, 0.0, None])
    assert priced["completion_tokens"].to_list() == [None, 30.0, None, None], "no length is invented"
    assert priced["cost_estimated"].to_list() == [True, True, False, None]


@pytest.mark.parametrize("name", list(LOADERS))
def test_every_loader_has_a_documented_command(name):
    page = (CONF_DIR.parent / "docs" / "loaders.md").read_text()
    assert f"**Command.** `python -m pipeline ingest source={name} " in page
