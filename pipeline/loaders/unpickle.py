"""A pickled pandas frame without running the pickle's code.

A pickle is a program: it may name any importable function and call it. Here it may name what rebuilds a frame
of text and numbers and nothing else; the first other name ends the reading before anything is called.
"""

from __future__ import annotations

import codecs
import importlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_MANAGERS = "pandas.core.internals.managers"
_MULTIARRAY = "numpy._core.multiarray"
_NUMERIC = "numpy._core.numeric"

# What a pickle may name -> where that lives now. Old names are kept: public files were written years ago.
_ADMITTED: dict[tuple[str, str], tuple[str, str]] = {
    **{
        (module, name): ("pandas", name)
        for name, modules in {
            "DataFrame": ("pandas", "pandas.core.frame"),
            "Series": ("pandas", "pandas.core.series"),
            "Index": ("pandas", "pandas.core.indexes.base"),
            "RangeIndex": ("pandas", "pandas.core.indexes.range"),
            "StringDtype": ("pandas", "pandas.core.arrays.string_"),
        }.items()
        for module in modules
    },
    **{
        ("pandas.core.indexes.numeric", name): ("pandas", "Index")
        for name in ("Int64Index", "UInt64Index", "Float64Index", "NumericIndex")
    },
    ("pandas.arrays", "ArrowStringArray"): ("pandas.arrays", "ArrowStringArray"),
    ("pandas.core.arrays.string_arrow", "ArrowStringArray"): ("pandas.arrays", "ArrowStringArray"),
    ("pandas.core.indexes.base", "_new_Index"): ("pandas.core.indexes.base", "_new_Index"),
    (_MANAGERS, "BlockManager"): (_MANAGERS, "BlockManager"),
    (_MANAGERS, "SingleBlockManager"): (_MANAGERS, "SingleBlockManager"),
    ("pandas._libs.internals", "_unpickle_block"): ("pandas._libs.internals", "_unpickle_block"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    **{
        (module, name): (home, name)
        for home, names in {_MULTIARRAY: ("_reconstruct", "scalar"), _NUMERIC: ("_frombuffer",)}.items()
        for name in names
        for module in (home, home.replace("_core", "core"))
    },
    ("builtins", "slice"): ("builtins", "slice"),
    ("__builtin__", "slice"): ("builtins", "slice"),
    ("builtins", "bytearray"): ("builtins", "bytearray"),
    ("__builtin__", "bytearray"): ("builtins", "bytearray"),
    # pandas 3 keeps text in Arrow buffers.
    ("pyarrow.lib", "type_for_alias"): ("pyarrow.lib", "type_for_alias"),
    ("pyarrow.lib", "py_buffer"): ("pyarrow.lib", "py_buffer"),
    ("pyarrow.lib", "_restore_array"): (__name__, "_restore_arrow_array"),
    ("_codecs", "encode"): (__name__, "_encode_latin1"),
}


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``: protocol 2 writes bytes as Latin-1 text and needs no other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _restore_arrow_array(data: Any) -> Any:
    """Restore an Arrow array and check its offsets, which would otherwise be trusted."""
    import pyarrow as pa

    array = pa.lib._restore_array(data)
    array.validate(full=True)
    return array


class _RefusedError(Exception):
    pass


class _FrameUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        home = _ADMITTED.get((module, name))
        if home is None:
            raise _RefusedError(f"{module}.{name}")
        return getattr(importlib.import_module(home[0]), home[1])


def read_pickled_frame(path: Path) -> pd.DataFrame:
    """Return the pandas frame in a pickle of protocol 2 or later.

    Raises:
        InputError: the pickle names anything but the reconstruction of a pandas frame, is truncated, or holds
            something else.
    """
    import pandas as pd

    try:
        with path.open("rb") as stream:
            value = _FrameUnpickler(stream).load()
    except _RefusedError as refused:
        raise InputError(
            f"{path}: refused: the pickle asks for '{refused}', which could run code; allowed: the parts of a "
            "pandas frame of text and numbers (convert the file to csv or parquet if you trust it)"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # a corrupt pickle may fail in any of the parts above
        raise InputError(
            f"{path}: not a readable pickle of a pandas frame: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(value, pd.DataFrame):
        raise InputError(f"{path}: the pickle holds {type(value).__name__}; allowed: a pandas DataFrame")
    return value
