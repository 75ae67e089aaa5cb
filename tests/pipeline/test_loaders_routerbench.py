"""RouterBench: the repr-of-a-list prompts, NaN scores, both layouts, all file types, and hostile pickles."""

import math
import os
import pickle
import pickletools

import pandas as pd
import polars as pl
import pytest

from pipeline.loaders.routerbench import load, prompt_text
from policies.errors import InputError
from policies.schemas import OUTCOMES, PROMPTS

MODELS = ("gpt-4-1106-preview", "mistralai/mistral-7b-chat")
WIDE = {
    "sample_id": ["mmlu-law.val.0", "mtbench.1", "mbpp.2"],
    "prompt": [
        "['Is this\\na list?']",
        "['First turn [1].', \"Second 'turn'.\"]",
        "[1, 2] is a list; sort it",
    ],
    "eval_name": ["mmlu-law", "mtbench", "mbpp"],
    "gpt-4-1106-preview": [1.0, 0.85, math.nan],
    "mistralai/mistral-7b-chat": [0.0, 0.1, 0.5],
    "gpt-4-1106-preview|model_response": ["['A']", "x" * 40, "def f(): ..."],
    "mistralai/mistral-7b-chat|model_response": ["['B']", "y" * 9, "z" * 400],
    "gpt-4-1106-preview|total_cost": [0.001, 0.02, 0.003],
    "mistralai/mistral-7b-chat|total_cost": [0.00001, 0.0002, math.nan],
    "oracle_model_to_route_to": ["gpt-4-1106-preview", "gpt-4-1106-preview", "no_model_correct"],
}


@pytest.fixture
def wide_file(tmp_path):
    def write(suffix="pkl", protocol=4, dtype=None, **changes):
        frame = pd.DataFrame({**WIDE, **changes}, dtype=dtype)
        path = tmp_path / f"routerbench_0shot.{suffix}"
        if suffix == "pkl":
            path.write_bytes(pickle.dumps(frame, protocol=protocol))
        elif suffix == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)
        return path

    return write


@pytest.mark.parametrize("suffix", ["pkl", "csv", "parquet"])
def test_every_file_type_reads_the_same(wide_file, loader_options, suffix):
    tables = load(wide_file(suffix), loader_options(*MODELS))
    assert tables.prompts["prompt"].to_list() == [
        "Is this\na list?",
        "First turn [1].\n\nSecond 'turn'.",
        "[1, 2] is a list; sort it",
    ]
    assert tables.prompts["task"].to_list() == ["mmlu-law", "mtbench", "mbpp"]
    assert tables.prompts.columns == PROMPTS.schema.names
    assert tables.outcomes.to_arrow().cast(OUTCOMES.schema).num_rows == 6
    assert sorted(tables.outcomes["model"].unique()) == sorted(MODELS)


def test_missing_score_is_null_and_recorded_cost_is_kept(wide_file, loader_options, outcome_of):
    row = outcome_of(load(wide_file(), loader_options(*MODELS)), "mbpp.2", MODELS[0])
    assert row["score"] is None
    assert row["cost_usd"] == 0.003
    assert row["cost_estimated"] is False
    assert row["completion_tokens"] is None


def test_missing_cost_is_priced_from_the_answers_length(wide_file, loader_options, outcome_of):
    row = outcome_of(load(wide_file(), loader_options(*MODELS)), "mbpp.2", MODELS[1])
    prompt_tokens = math.ceil(len("[1, 2] is a list; sort it") / 4)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (prompt_tokens, 100)
    assert row["cost_usd"] == pytest.approx((prompt_tokens * 1.0 + 100 * 2.0) / 1e6)
    assert row["cost_estimated"] is True


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [None, object])
def test_pickles_of_every_protocol_and_text_type(wide_file, loader_options, protocol, dtype):
    tables = load(wide_file(protocol=protocol, dtype=dtype), loader_options(*MODELS))
    assert tables.outcomes.height == 6


def test_pickle_written_before_numpy_2_and_pandas_3(wide_file, loader_options):
    path = wide_file(protocol=2, dtype=object)
    old = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    old = old.replace(b"cpandas\nDataFrame\n", b"cpandas.core.frame\nDataFrame\n")
    old = old.replace(b"cpandas\nRangeIndex\n", b"cpandas.core.indexes.range\nRangeIndex\n")
    path.write_bytes(old)
    names = {argument for code, argument, _ in pickletools.genops(old) if code.name == "GLOBAL"}
    assert {"numpy.core.multiarray _reconstruct", "pandas.core.frame DataFrame"} <= names
    assert load(path, loader_options(*MODELS)).outcomes.height == 6


class _Payload:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["alone", "in a frame"])
def test_hostile_pickle_is_refused_and_does_nothing(tmp_path, loader_options, where):
    victim = tmp_path / "created"
    payload = _Payload(os.system, f"touch {victim}")
    value = payload if where == "alone" else pd.DataFrame({"prompt": pd.Series([payload], dtype=object)})
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match=r"routerbench_0shot.pkl: refused: the pickle asks for '.*system'"):
        load(path, loader_options(*MODELS))
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists(), "the payload works where nothing stops it"


@pytest.mark.parametrize(
    "function", [eval, getattr, pd.DataFrame.eval, pd.read_pickle, pickle.loads, pl.read_csv, open]
)
def test_every_other_callable_is_refused(tmp_path, loader_options, function):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(_Payload(function, "1"), protocol=4))
    with pytest.raises(InputError, match="refused: the pickle asks for"):
        load(path, loader_options(*MODELS))


def test_only_latin1_bytes_pass_the_codec(tmp_path, loader_options):
    import codecs

    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(_Payload(codecs.encode, "x", "rot13")))
    with pytest.raises(InputError, match=r"not a readable pickle of a pandas frame.*rot13"):
        load(path, loader_options(*MODELS))


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle"])
def test_corrupt_pickle_names_the_file(tmp_path, loader_options, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pkl: not a readable pickle"):
        load(path, loader_options(*MODELS))


def test_long_form(tmp_path, loader_options, outcome_of):
    frame = pd.DataFrame(
        {
            "sample_id": ["a", "a", "b"],
            "prompt": ["['Q1']", "['Q1']", "Q2"],
            "eval_name": ["t", "t", "u"],
            "model_name": [MODELS[0], MODELS[1], MODELS[0]],
            "model_response": ["x", "y", "z"],
            "performance": [True, False, math.nan],
            "cost": [0.1, 0.2, 0.3],
        }
    )
    path = tmp_path / "routerbench_raw.pkl"
    path.write_bytes(pickle.dumps(frame))
    tables = load(path, loader_options(*MODELS))
    assert tables.prompts.rows() == [("a", "Q1", "t"), ("b", "Q2", "u")]
    assert outcome_of(tables, "a", MODELS[0])["score"] == 1.0
    assert outcome_of(tables, "b", MODELS[0])["score"] is None
    assert tables.outcomes.height == 3


def test_folder_prefers_the_zero_shot_file(wide_file, loader_options):
    path = wide_file()
    path.with_name("routerbench_5shot.pkl").write_bytes(b"never read")
    assert load(path.parent, loader_options(*MODELS)).outcomes.height == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpt-4-1106-preview": [1.0, 1.5, 0.0]}, r"csv: row 2, score of model 'gpt-4-1106-preview' .*: 1.5"),
        ({"gpt-4-1106-preview": ["1", "good", "0"]}, r"csv: row 2, column 'gpt-4-1106-preview': 'good'"),
        ({"gpt-4-1106-preview|total_cost": [1, -1, 0]}, r"csv: row 2, cost_usd .*: -1; allowed: \[0, inf\)"),
        ({"sample_id": ["a", None, "b"]}, r"csv: row 2, column 'sample_id': empty"),
        ({"sample_id": ["a", "b", "a"]}, r"csv: row 3: prompt 'a' differs from the one of .*csv: row 1"),
    ],
)
def test_bad_cells_name_file_row_and_column(wide_file, loader_options, changes, message):
    with pytest.raises(InputError, match=message):
        load(wide_file("csv", **changes), loader_options(*MODELS))


def test_table_without_cost_columns_lists_what_it_has(tmp_path, loader_options):
    path = tmp_path / "x.csv"
    path.write_text("sample_id,prompt,eval_name\na,b,c\n")
    with pytest.raises(InputError, match=r"x\.csv: no column ends in '\|total_cost'.*sample_id"):
        load(path, loader_options(*MODELS))


def test_model_without_a_price_is_an_error_or_dropped(wide_file, loader_options):
    with pytest.raises(InputError, match=r"model 'mistralai/mistral-7b-chat' has no price in prices.yaml"):
        load(wide_file(), loader_options(MODELS[0]))
    tables = load(wide_file(), loader_options(MODELS[0], unknown_models="drop"))
    assert tables.outcomes["model"].unique().to_list() == [MODELS[0]]
    assert any("3 rows of 1 models without a price dropped" in note for note in tables.notes)


@pytest.mark.parametrize("cell", ["plain", "[unclosed", "[1, 2]", "[]", "[f(x)]", "['a', 1]", "[" * 5000])
def test_what_is_no_list_of_strings_stays_as_it_is(cell):
    assert prompt_text(cell) == cell
