"""The command line as a user meets it: real processes, exit codes, one-line errors."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline.__main__ import STAGES, main

ROOT = Path(__file__).resolve().parents[2]


def pipeline(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )


@pytest.fixture
def tables(tmp_path):
    prompts = pl.DataFrame(
        {"prompt_id": [f"p{i}" for i in range(60)], "prompt": [f"question {i}" for i in range(60)]}
    )
    outcomes = prompts.select("prompt_id").join(pl.DataFrame({"model": ["a", "b"]}), how="cross")
    outcomes = outcomes.with_columns(pl.lit(0.5).alias("score"), pl.lit(0.001).alias("cost"))
    prompts.write_parquet(tmp_path / "prompts.parquet")
    outcomes.write_parquet(tmp_path / "outcomes.parquet")
    prices = {m: {"input": 1.0, "output": 1.0} for m in ("a", "b", "c")}
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump({"prices": prices, "pools": {"two": ["a", "b"]}}))
    return [
        "data=tables",
        f"data.prompts={tmp_path}/prompts.parquet",
        f"data.outcomes={tmp_path}/outcomes.parquet",
        f"pool={tmp_path}/pool.yaml",
        "pool.name=two",
        f"run.dir={tmp_path}/run",
    ]


def test_done_is_exit_code_0_and_writes_the_tables(tables, tmp_path):
    assert main(["ingest", *tables]) == 0
    assert {p.name for p in (tmp_path / "run" / "tables").iterdir()} >= {
        "prompts.parquet",
        "outcomes.parquet",
        "splits.parquet",
    }


def test_bad_configuration_is_exit_code_2_with_one_line(tables):
    done = pipeline("ingest", *tables, "data.splits=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.splits=1: unknown key; did you mean 'data.split'?")
    assert "Traceback" not in done.stderr


def test_unknown_stage_is_exit_code_2():
    assert pipeline("trian").returncode == 2


def test_bad_input_leaves_no_table_behind(tables, tmp_path):
    pl.DataFrame({"prompt_id": ["p0"], "model": ["a"], "score": [1.2], "cost": [0.1]}).write_parquet(
        tmp_path / "outcomes.parquet"
    )
    assert main(["ingest", *tables]) == 2
    assert not (tmp_path / "run" / "tables").exists()


def test_outcome_of_an_unknown_prompt_names_the_row(tables, tmp_path, capsys):
    pl.DataFrame(
        {"prompt_id": ["p0", "zz"], "model": ["a", "a"], "score": [1.0, 1.0], "cost": [0.1, 0.1]}
    ).write_parquet(tmp_path / "outcomes.parquet")
    assert main(["ingest", *tables]) == 2
    assert "row 2, column 'prompt_id': 'zz' is not in the prompts table" in capsys.readouterr().err


def test_model_without_outcomes_is_named(tables, capsys):
    assert main(["ingest", *tables, "pool.name=all"]) == 2
    assert "no row of model 'c', which the pool names" in capsys.readouterr().err


def test_unwritable_run_folder(tables, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["ingest", *tables, f"run.dir={tmp_path}/file/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_stage_out_of_order_names_the_stage_to_run_first(tables, capsys):
    assert main(["evaluate", *tables]) == 2
    assert "first" in capsys.readouterr().err


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_help_of_every_stage_names_its_keys(stage, capsys):
    with pytest.raises(SystemExit) as caught:
        main([stage, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for group in STAGES[stage].groups:
        assert f"\n{group}" in text
