"""The optional half of Arrow: pyarrow, imported when it is first needed."""

from __future__ import annotations

from typing import Any


def need_pyarrow(purpose: str) -> Any:
    """The module pyarrow, or an ``ImportError`` that says what it is needed for."""
    try:
        import pyarrow
    except ImportError as error:
        message = f"{purpose} needs pyarrow, which is not installed: pip install 'apiary[pyarrow]'"
        raise ImportError(message, name="pyarrow") from error
    return pyarrow


def schema_of(native: Any) -> Any:
    """``native`` as a ``pyarrow.Schema`` where pyarrow is installed, else as it is."""
    try:
        import pyarrow
    except ImportError:
        return native
    return pyarrow.schema(native)


def batch_of(native: Any) -> Any:
    """``native`` as a ``pyarrow.RecordBatch`` where pyarrow is installed, else as it is."""
    try:
        import pyarrow
    except ImportError:
        return native
    return pyarrow.record_batch(native)
