"""Every loader by name, and the way from a name to its tables."""

from __future__ import annotations

from pathlib import Path

from pipeline.loaders import (
    alpaca_eval,
    llmrouterbench,
    mmlu_pro,
    routellm,
    routerarena,
    routerbench,
    sprout,
    ulab,
)
from pipeline.loaders.base import Hub, LoadedTables, Loader, LoaderOptions
from pipeline.loaders.download import download
from policies.errors import InputError

LOADERS: dict[str, Loader] = {
    "routerbench": Loader(
        "RouterBench",
        routerbench.load,
        "the data set withmartian/routerbench on the Hugging Face hub",
        Hub("withmartian/routerbench", ("routerbench_0shot.pkl",)),
    ),
    "llmrouterbench": Loader(
        "LLMRouterBench",
        llmrouterbench.load,
        "the data set NPULH/LLMRouterBench on the Hugging Face hub",
        Hub("NPULH/LLMRouterBench", ("*.tar.gz",)),
    ),
    "routellm": Loader(
        "RouteLLM evaluations", routellm.load, "routellm/evals of the GitHub repository lm-sys/RouteLLM"
    ),
    "ulab": Loader(
        "ulab LLMRouter",
        ulab.load,
        "the *_routing_*.jsonl files of the GitHub repository ulab-uiuc/LLMRouter",
    ),
    "routerarena": Loader(
        "RouterArena",
        routerarena.load,
        "cached_results of the GitHub repository RouteWorks/RouterArena",
        evaluation_only=True,
    ),
    "sprout": Loader(
        "SPROUT",
        sprout.load,
        "the data set CARROT-LLM-Routing/SPROUT on the Hugging Face hub",
        Hub("CARROT-LLM-Routing/SPROUT", ("data/*.parquet",)),
    ),
    "mmlu_pro": Loader(
        "MMLU-Pro outputs", mmlu_pro.load, "eval_results of the GitHub repository TIGER-AI-Lab/MMLU-Pro"
    ),
    "alpaca_eval": Loader(
        "AlpacaEval annotations", alpaca_eval.load, "results of the GitHub repository tatsu-lab/alpaca_eval"
    ),
}
"""Names are the values of ``data.benchmark``."""


def load_benchmark(name: str, path: str | None, options: LoaderOptions) -> LoadedTables:
    """Return the tables of a benchmark, read from ``path`` or downloaded by name.

    Raises:
        InputError: the path is missing or remote, the download fails, or the content is not the format's.
    """
    loader = LOADERS[name]
    if path is not None and "://" in path:
        raise InputError(f"data.path={path}: benchmarks are read from local disk; copy it there first")
    folder = Path(path) if path is not None else download(name, loader)
    if not folder.exists():
        raise InputError(f"data.path={folder}: no such file or directory")
    return loader.load(folder, options)
