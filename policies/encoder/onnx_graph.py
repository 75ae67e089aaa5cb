"""ONNX Runtime's graph of the network, in float32 or with weights and matrix products in int8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.encoder.forward import Forward
from policies.encoder.graph_cache import cached_graph
from policies.encoder.source import EncoderSource
from policies.encoder.torch_network import INPUTS, network_for_conversion

_FILE = "encoder.onnx"
_OUTPUT = "sentence_embedding"


def onnx_forward(source: EncoderSource, threads: int, cache_dir: Path, *, int8: bool) -> Forward:
    """Return the forward pass; the graph is converted once per model and ONNX Runtime version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory plan is made for one shape; nearly every batch has its own.
    options.enable_mem_pattern = False
    options.log_severity_level = 3

    def read(folder: Path) -> Any:
        if not (folder / _FILE).is_file():
            return None
        try:
            return onnxruntime.InferenceSession(folder / _FILE, options, providers=["CPUExecutionProvider"])
        except Exception:  # ONNX Runtime's errors share no narrower class
            return None

    folder = cache_dir / f"onnx-{onnxruntime.__version__}-{source.fingerprint[:16]}"
    if int8:
        session = cached_graph(
            folder.with_name(f"{folder.name}-int8"), lambda there: _quantize(source, folder, there), read
        )
    else:
        session = cached_graph(folder, lambda there: _export(source, there), read)

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return session.run([_OUTPUT], dict(zip(INPUTS, (ids, mask))))[0]

    return forward


def _export(source: EncoderSource, folder: Path) -> None:
    import torch

    network, example = network_for_conversion(source)
    # It names every optional package that it did not find.
    with torch.no_grad(), warnings.catch_warnings(), _errors_only("torch.onnx"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example,
            folder / _FILE,
            input_names=list(INPUTS),
            output_names=[_OUTPUT],
            dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in INPUTS),
            dynamo=True,
            verbose=False,
        )


def _quantize(source: EncoderSource, float_folder: Path, folder: Path) -> None:
    """Write the int8 graph, made of the float32 one, which is converted first where it is not there yet.

    Weights have one scale per output channel. Activations are scaled as they come, so no sample of texts is needed
    and none can be the wrong one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = cached_graph(float_folder, lambda there: _export(source, there), read_model)
    # It advises a preparation that image networks need, through the root logger.
    with _errors_only(None):
        quantize_dynamic(graph, folder / _FILE, per_channel=True, weight_type=QuantType.QInt8)


def read_model(folder: Path) -> Any | None:
    """Return the graph as ONNX holds it; None where it is missing or damaged."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(folder / _FILE)
    except (OSError, ValueError, DecodeError):
        return None
    return model if len(model.graph.node) else None  # an empty file is an empty graph


@contextmanager
def _errors_only(logger: str | None) -> Iterator[None]:
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
