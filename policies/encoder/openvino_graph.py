"""OpenVINO's compiled graph of the network, in float32 or bfloat16."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.encoder.forward import Forward
from policies.encoder.graph_cache import cached_graph
from policies.encoder.source import EncoderSource
from policies.encoder.torch_network import INPUTS, network_for_conversion

_FILE = "encoder.xml"


def openvino_forward(source: EncoderSource, threads: int, cache_dir: Path, *, bfloat16: bool) -> Forward:
    """Return the forward pass; the graph is converted once per model and OpenVINO version."""
    import openvino

    core = openvino.Core()

    def write(folder: Path) -> None:
        openvino.save_model(_convert(source), folder / _FILE, compress_to_fp16=False)

    def read(folder: Path) -> Any:
        try:
            return core.read_model(folder / _FILE)
        except RuntimeError:
            return None

    version = openvino.__version__.split("-")[0]
    graph = cached_graph(cache_dir / f"openvino-{version}-{source.fingerprint[:16]}", write, read)
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned encoder processes would all sit on the first core.
            "ENABLE_CPU_PINNING": False,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        },
    )
    request = compiled.create_infer_request()

    def forward(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return request.infer([ids, mask], share_inputs=True)[0]

    return forward


def _convert(source: EncoderSource) -> Any:
    import openvino
    import torch

    network, example = network_for_conversion(source)
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of branches on shapes; those taken here hold for every shape (checked on the probes).
        warnings.simplefilter("ignore")
        return openvino.convert_model(network, example_input=dict(zip(INPUTS, example)))
