"""Configuration: what is composed, and what is refused before any work."""

import pytest
import yaml
from pydantic import ValidationError

from pipeline.compose import CONF_DIR, load_config, record_config
from policies.errors import InputError


def test_defaults_compose():
    config = load_config([])
    assert config.data.source == "example"
    assert config.pool.path == str(CONF_DIR / "pools" / "example.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.lrr=1", "policy.lrr=1: unknown key; did you mean 'policy.lr'"),
        ("+train.foo=1", "train.foo: unknown key; allowed below train: mode"),
        ("tran.lr=1", "unknown key; did you mean 'train'"),
        ("policy.lr=fast", "policy.lr='fast'"),
        ("train.tau_usd=0", "train.tau_usd=0: Input should be greater than 0"),
        ("train.tau_usd=nan", "train.tau_usd"),
        ("train.mode=batch", "'simulated_online' or 'logged'"),
        ("policy=nonsense", "policy=nonsense: no such option; allowed: barp"),
        ("data=tables", "data.prompts is not set"),
        ("data.split.train=0.9", "train + validation + test is 1.1"),
        ("simulate.epsilon=1.5", "simulate.epsilon=1.5"),
        ("route.w_costs=[0.5,2]", "route.w_costs.1=2"),
        ("train", "expected key=value"),
    ],
)
def test_refused_with_path_value_and_allowed(override, message):
    with pytest.raises(InputError) as caught:
        load_config([override])
    assert message in str(caught.value)


def test_pool_path_is_short_for_the_file_group(tmp_path):
    config = load_config([f"pool={tmp_path}/p.yaml", "pool.name=mid"])
    assert (config.pool.path, config.pool.name) == (f"{tmp_path}/p.yaml", "mid")


def test_lists_with_spaces_survive():
    assert load_config(["data.ood_tasks=[computer science,law]"]).data.ood_tasks == (
        "computer science",
        "law",
    )


def test_config_is_frozen():
    config = load_config([])
    with pytest.raises(ValidationError, match="frozen"):
        config.policy.lr = 1.0  # type: ignore[misc]


def test_run_remembers_its_overrides_and_new_ones_win(tmp_path):
    first = ["policy.lr=0.5", f"run.dir={tmp_path}/r", "data.ood_tasks=[word_problem]"]
    record_config(load_config(first), first)
    again = load_config([f"run={tmp_path}/r", "data.ood_tasks=[]"])
    assert again.policy.lr == 0.5
    assert again.data.ood_tasks == ()
    assert again.run.dir == f"{tmp_path}/r"


def test_recorded_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        "data=tables",
        "data.prompts=p.parquet",
        "data.outcomes=o.csv",
        "pool=./pools.yaml",
        "run.dir=r",
    ]
    record_config(load_config(overrides), overrides)
    recorded = yaml.safe_load((tmp_path / "r" / "overrides.yaml").read_text())
    assert f"data.prompts={tmp_path}/p.parquet" in recorded
    assert f"pool.path={tmp_path}/pools.yaml" in recorded


def test_not_a_run(tmp_path):
    with pytest.raises(InputError, match="not the folder of a run"):
        load_config([f"run={tmp_path}"])


def test_uris_are_left_alone():
    overrides = ["data=tables", "data.prompts=s3://bucket/p.parquet", "data.outcomes=gs://bucket/o"]
    assert load_config(overrides).data.prompts == "s3://bucket/p.parquet"


def test_every_yaml_option_composes():
    for group in ("encoder", "policy", "train", "tune", "evaluate", "serve", "cluster"):
        for option in (CONF_DIR / group).glob("*.yaml"):
            load_config([f"{group}={option.stem}"])
