"""What can be written to a frame, brought to the one form that the native module takes: an Arrow stream.

Tables of pyarrow, polars and DuckDB pass as they are. Everything else is fitted here:

- a pandas ``DataFrame`` loses an index without a name (it is a row number, not data);
- plain Python values get the types of the frame's columns, not those that pyarrow would guess;
- an iterator of batches is pulled lazily, so data larger than memory can be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from .arrow import need_pyarrow
from .errors import InvalidInputError, SchemaError


class Input:
    """Data in a form with ``__arrow_c_stream__`` or ``__arrow_c_array__``.

    ``failure`` is the exception that a Python iterator raised while it was read: through Arrow's C interface only its
    text would come back.
    """

    __slots__ = ("failure", "stream")

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: BaseException | None = None


def input_of(data: Any, frame_schema: Callable[[], Any]) -> Input:
    """Fits ``data``; ``frame_schema`` is asked only where the data has no types of its own."""
    if _is_pandas(data):
        return Input(_from_pandas(data))
    if _is_arrow(data):
        return Input(data)
    if isinstance(data, Mapping):
        return Input(_from_columns(data, frame_schema()))
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise InvalidInputError(f"cannot write {_kind(data)}: {_USE}")
    if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        return Input(_from_rows(data, frame_schema()))
    return _from_batches(iter(data), frame_schema)


_USE = "use a table of pyarrow, polars, pandas or DuckDB, an iterator of batches, a dict of lists, or a list of dicts"


def _is_arrow(data: Any) -> bool:
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def _is_pandas(data: Any) -> bool:
    kind = type(data)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def _kind(data: Any) -> str:
    return f"a {type(data).__module__}.{type(data).__qualname__}"


def _from_pandas(data: Any) -> Any:
    pa = need_pyarrow("writing a pandas DataFrame")
    named = any(name is not None for name in data.index.names)
    return pa.Table.from_pandas(data, preserve_index=named).replace_schema_metadata(None)


def _from_columns(columns: Mapping[str, Any], frame_schema: Any) -> Any:
    pa = need_pyarrow("writing a dict of lists")
    schema = pa.schema(frame_schema)
    return _typed(lambda: pa.table({str(name): _column(pa, schema, name, values) for name, values in columns.items()}))


def _from_rows(rows: Sequence[Mapping[str, Any]], frame_schema: Any) -> Any:
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        return need_pyarrow("writing a list of dicts").schema(frame_schema).empty_table()
    return _from_columns({name: [row.get(name) for row in rows] for name in names}, frame_schema)


def _column(pa: Any, schema: Any, name: str, values: Any) -> Any:
    """An array of the type of the frame's column; a column that the frame lacks is for the frame to refuse."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    index = schema.get_field_index(name)
    return pa.array(values, type=schema.field(index).type if index >= 0 else None)


def _typed(build: Callable[[], Any]) -> Any:
    """Calls ``build``; values that do not fit their types are an error of the schema."""
    pa = need_pyarrow("writing plain Python values")
    try:
        return build()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise SchemaError(f"the data does not fit the frame: {error}") from error


def _from_batches(items: Iterator[Any], frame_schema: Callable[[], Any]) -> Input:
    pa = need_pyarrow("writing an iterator of record batches")
    for item in items:
        first = _reader(pa, item)
        break
    else:
        return Input(pa.schema(frame_schema()).empty_table())
    readers = chain([first], (_reader(pa, item) for item in items))
    result = Input(None)
    batches = _batches(pa, readers, first.schema, result)
    result.stream = pa.RecordBatchReader.from_batches(first.schema, batches)
    return result


def _batches(pa: Any, readers: Iterator[Any], schema: Any, result: Input) -> Iterator[Any]:
    try:
        for number, reader in enumerate(readers, 1):
            for batch in reader:
                yield batch if batch.schema.equals(schema) else _cast(pa, batch, schema, number)
    except GeneratorExit:
        raise
    except BaseException as error:
        result.failure = error
        raise


def _reader(pa: Any, item: Any) -> Any:
    """The batches of one element of an iterator."""
    if isinstance(item, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(item.schema, [item])
    if _is_pandas(item):
        return _from_pandas(item).to_reader()
    if hasattr(item, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(item)
    if hasattr(item, "__arrow_c_array__"):
        batch = pa.record_batch(item)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    raise InvalidInputError(f"cannot write an iterator of {_kind(item)}: {_USE}")


def _cast(pa: Any, batch: Any, schema: Any, number: int) -> Any:
    if sorted(batch.schema.names) != sorted(schema.names):
        raise SchemaError(
            f"item {number} of the iterator has columns {batch.schema.names}, and the first has {schema.names}"
        )
    try:
        return batch.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SchemaError(f"item {number} of the iterator does not fit its first: {error}") from error
