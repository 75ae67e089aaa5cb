"""What runs the network: which backends there are, which one a machine gets, and how close each has to be."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from policies.encoder.forward import Forward
from policies.encoder.onnx_graph import onnx_forward
from policies.encoder.openvino_graph import openvino_forward
from policies.encoder.source import EncoderSource
from policies.encoder.torch_network import cpu_forward, cuda_forward
from policies.errors import InputError

CPU_BACKENDS = ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16", "onnx-fp32", "onnx-int8")
CUDA_BACKEND = "torch-cuda-fp16"
BACKENDS = (*CPU_BACKENDS, CUDA_BACKEND)

_PACKAGES = {"openvino": ("openvino",), "onnx": ("onnxruntime", "onnx", "onnxscript")}
"""Of each optional extra; a backend's name starts with its extra's."""


def least_cosine(backend: str) -> float:
    """Return the lowest cosine to sentence-transformers in float32 that a backend may have on a probe."""
    return 0.97 if backend.endswith("int8") else 0.9999


def choose_backend(wanted: str) -> str:
    """Return the backend to use: ``wanted``, or for ``auto`` the fastest that this machine's CPU has.

    OpenVINO where it is installed, else PyTorch; in bfloat16 only where the CPU computes in it, since elsewhere it is
    emulated and slower than float32. ONNX Runtime in float32 is measured slower than PyTorch (``benchmarks.embed``), so
    it is taken by configuration alone; so is int8, which changes the vectors, and a GPU, since the machine that decides
    need not be the one that encodes.

    Raises:
        InputError: an unknown backend, or one whose package is not installed.
    """
    if wanted == "auto":
        return f"{'torch' if _missing('openvino') else 'openvino'}-{'bf16' if cpu_has_bf16() else 'fp32'}"
    if wanted not in BACKENDS:
        raise InputError(f"encoder.backend={wanted}: unknown; allowed: auto, {', '.join(BACKENDS)}")
    extra = _extra(wanted)
    missing = _missing(extra)
    if missing:
        raise InputError(
            f"encoder.backend={wanted}: {', '.join(missing)} not installed (pip install 'tradewind[{extra}]'); "
            f"allowed here: {', '.join(installed_backends())}"
        )
    return wanted


def installed_backends() -> list[str]:
    """Return the CPU backends whose packages this machine has."""
    return [backend for backend in CPU_BACKENDS if not _missing(_extra(backend))]


def explain_backend(wanted: str, chosen: str) -> str:
    """Return in a few words why ``chosen`` is used, for the line that names it."""
    if wanted != "auto":
        return "as configured"
    if chosen != choose_backend("auto"):
        return "as the policy was trained"
    package = "OpenVINO is not installed" if _missing("openvino") else "OpenVINO is installed"
    return f"{package}, this CPU {'computes' if cpu_has_bf16() else 'does not compute'} in bfloat16"


def _extra(backend: str) -> str:
    return backend.partition("-")[0]


def _missing(extra: str) -> list[str]:
    return [name for name in _PACKAGES.get(extra, ()) if importlib.util.find_spec(name) is None]


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware (False where the kernel does not say)."""
    if not cpuinfo.exists():
        return False
    for line in cpuinfo.read_text().splitlines():
        if line.lower().startswith(("flags", "features")):
            return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(line.split())
    return False


def open_backend(backend: str, source: EncoderSource, *, threads: int, cache_dir: Path) -> Forward:
    """Return the forward pass of a concrete backend (see :func:`choose_backend`).

    Raises:
        InputError: the model cannot be loaded, or there is no GPU for a backend that needs one.
    """
    if backend == CUDA_BACKEND:
        _need_gpu()
        return cuda_forward(source)
    runtime, _, number_format = backend.partition("-")
    if runtime == "openvino":
        return openvino_forward(source, threads, cache_dir, bfloat16=number_format == "bf16")
    if runtime == "onnx":
        return onnx_forward(source, threads, cache_dir, int8=number_format == "int8")
    return cpu_forward(source, threads, bfloat16=number_format == "bf16")


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"encoder.backend={CUDA_BACKEND}: PyTorch sees no CUDA device in this process; allowed here: "
            f"{', '.join(installed_backends())}"
        )
