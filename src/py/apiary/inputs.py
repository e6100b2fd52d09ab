"""What can be written to a frame, brought to the one form that the native module takes: an Arrow stream.

Tables of pyarrow, polars and DuckDB pass as they are. Everything else is fitted here:

- a pandas ``DataFrame`` loses an index without a name (it is a row number, not data), and its floats become whole
  numbers where the frame has such: pandas has no others beside missing values;
- plain Python values get the types of the frame's columns, not those that pyarrow would guess;
- an iterator of batches is pulled lazily, so data larger than memory can be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain, islice
from numbers import Real
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
        return Input(_whole_numbers(_from_pandas(data), frame_schema))
    if _is_arrow(data):
        return Input(data)
    if isinstance(data, Mapping):
        return Input(_from_columns(data, frame_schema()))
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        use = "call its collect() first" if type(data).__name__ == "LazyFrame" else _USE
        raise InvalidInputError(f"cannot write {_kind(data)}: {use}")
    if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        return Input(_from_rows(data, frame_schema()))
    return _from_batches(iter(data), frame_schema)


_USE = "use a table of pyarrow, polars, pandas or DuckDB, an iterator of batches, a dict of lists, or dicts of rows"

# Rows that an iterator of dicts gives for one batch.
_ROWS = 10_000


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


def _whole_numbers(table: Any, frame_schema: Callable[[], Any]) -> Any:
    """Whole numbers beside missing values are floats in pandas: they become what the frame has."""
    pa = need_pyarrow("writing a pandas DataFrame")
    floats = [at for at, field in enumerate(table.schema) if pa.types.is_floating(field.type)]
    wanted = {field.name.lower(): field.type for field in (pa.schema(frame_schema()) if floats else [])}
    for at in floats:
        name = table.schema.field(at).name
        kind = wanted.get(name.lower())
        if kind is not None and pa.types.is_integer(kind):
            try:
                values = table.column(at).cast(kind)
            except pa.ArrowInvalid as error:
                raise SchemaError(f"column '{name}' holds whole numbers ({kind}), and not all are: {error}") from error
            table = table.set_column(at, name, values)
    return table


def _from_columns(columns: Mapping[str, Any], frame_schema: Any) -> Any:
    pa = need_pyarrow("writing a dict of lists")
    schema = pa.schema(frame_schema)
    columns = {str(name): _values(name, values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in columns.items() if hasattr(values, "__len__")}
    first = next(iter(lengths), "")
    for name, length in lengths.items():
        if length != lengths[first]:
            text = f"column '{name}' has {length} values and '{first}' has {lengths[first]}: give every column as many"
            raise SchemaError(text)
    return _typed(lambda: pa.table({name: _column(pa, schema, name, values) for name, values in columns.items()}))


def _values(name: Any, values: Any) -> Any:
    if _is_arrow(values):
        return values
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise SchemaError(f"column '{name}' is {_kind(values)}: give a list of its values")
    return values if hasattr(values, "__len__") else list(values)


def _from_rows(rows: Sequence[Mapping[str, Any]], frame_schema: Any) -> Any:
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        return need_pyarrow("writing a list of dicts").schema(frame_schema).empty_table()
    return _from_columns(_columns_of(rows, names), frame_schema)


def _columns_of(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in names}


def _column(pa: Any, schema: Any, name: str, values: Any) -> Any:
    """An array of the type of the frame's column; a column that the frame lacks is for the frame to refuse."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    index = schema.get_field_index(name)
    wanted = schema.field(index).type if index >= 0 else None
    if wanted is not None and pa.types.is_integer(wanted) and not hasattr(values, "dtype"):
        # pyarrow looks at the digits behind the point in arrays of numpy and pandas only; elsewhere it cuts them off.
        values = list(values)
        for value in values:
            if isinstance(value, (Real, Decimal)) and not isinstance(value, int) and value != value // 1:
                raise SchemaError(f"column '{name}' holds whole numbers ({wanted}), and {value!r} is none: round it")
    try:
        return pa.array(values, type=wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise SchemaError(f"column '{name}' does not fit the frame: {error}") from error


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
        if isinstance(item, Mapping):
            return _from_batches(_tables(chain([item], items), frame_schema()), frame_schema)
        first = _reader(pa, item)
        break
    else:
        return Input(pa.schema(frame_schema()).empty_table())
    readers = chain([first], (_reader(pa, item) for item in items))
    result = Input(None)
    batches = _batches(pa, readers, first.schema, result)
    result.stream = pa.RecordBatchReader.from_batches(first.schema, batches)
    return result


def _tables(rows: Iterator[Mapping[str, Any]], frame_schema: Any) -> Iterator[Any]:
    # Those of the frame that the first rows lack may come later.
    names = dict.fromkeys(need_pyarrow("writing dicts").schema(frame_schema).names)
    while some := list(islice(rows, _ROWS)):
        for row in some:
            if not isinstance(row, Mapping):
                raise InvalidInputError(f"the iterator gives dicts, and then {_kind(row)}: give one kind")
            names.update(dict.fromkeys(row))
        yield _from_columns(_columns_of(some, names), frame_schema)


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
