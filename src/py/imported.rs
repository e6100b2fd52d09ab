//! Batches of other libraries, out of Arrow's C interface, with slices put right on the way.
//!
//! Arrow's own import leaves two forms that C allows for its arrays to mistake: a struct within a struct, where one of
//! them begins somewhere within its buffers (it is sliced twice), and an empty slice (its offsets lie beyond its values).

use std::ffi::CStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayDataBuilder, RecordBatch, RecordBatchOptions, RecordBatchReader, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow::ffi_stream::FFI_ArrowArrayStream;
use arrow::record_batch::RecordBatchIterator;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::input::Reader;

/// The batches of anything with `__arrow_c_stream__` or `__arrow_c_array__`.
pub(super) fn reader(data: &Bound<'_, PyAny>) -> PyResult<Reader> {
    let refused = |error: ArrowError| PyValueError::new_err(error.to_string());
    if data.hasattr("__arrow_c_stream__")? {
        let capsule = data.call_method0("__arrow_c_stream__")?.cast_into::<PyCapsule>()?;
        let stream = capsule.pointer_checked(Some(c"arrow_array_stream"))?.cast();
        // SAFETY: a capsule of this name holds such a stream; what is left there counts as released.
        let stream = unsafe { FFI_ArrowArrayStream::from_raw(stream.as_ptr()) };
        return Ok(Box::new(Imported::new(stream).map_err(refused)?));
    }
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) =
        data.call_method0("__arrow_c_array__")?.extract()?;
    let (schema, array) =
        (schema.pointer_checked(Some(c"arrow_schema"))?, array.pointer_checked(Some(c"arrow_array"))?);
    // SAFETY: capsules of these names hold a schema and an array of it; what is left there counts as released.
    let (schema, array) =
        unsafe { (FFI_ArrowSchema::from_raw(schema.cast().as_ptr()), FFI_ArrowArray::from_raw(array.cast().as_ptr())) };
    if array.is_released() {
        return Err(PyValueError::new_err("the array was read before: ask for it again"));
    }
    let field = Field::try_from(&schema).map_err(refused)?;
    let DataType::Struct(columns) = field.data_type() else {
        return Err(PyValueError::new_err(format!("an array of {} has no columns", field.data_type())));
    };
    let schema = Arc::new(Schema::new_with_metadata(columns.clone(), field.metadata().clone()));
    let batch = batch(&schema, array).map_err(refused)?;
    Ok(Box::new(RecordBatchIterator::new([Ok(batch)], schema)))
}

/// A stream that another library gives.
struct Imported {
    stream: FFI_ArrowArrayStream,
    schema: SchemaRef,
}

impl Imported {
    fn new(mut stream: FFI_ArrowArrayStream) -> Result<Self, ArrowError> {
        let ask = stream.get_schema.filter(|_| stream.release.is_some());
        let ask = ask.ok_or_else(|| ArrowError::CDataInterface("the stream was read before".into()))?;
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: both live, and the stream was not released.
        let code = unsafe { ask(&mut stream, &mut schema) };
        if code != 0 {
            return Err(failure(&mut stream, code));
        }
        let schema = Arc::new(Schema::try_from(&schema)?);
        Ok(Self { stream, schema })
    }
}

impl Iterator for Imported {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut array = FFI_ArrowArray::empty();
        let Some(next) = self.stream.get_next else {
            return Some(Err(ArrowError::CDataInterface("the stream gives no batches".into())));
        };
        // SAFETY: both live, and the stream was not released.
        let code = unsafe { next(&mut self.stream, &mut array) };
        if code != 0 {
            return Some(Err(failure(&mut self.stream, code)));
        }
        (!array.is_released()).then(|| batch(&self.schema, array))
    }
}

impl RecordBatchReader for Imported {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn failure(stream: &mut FFI_ArrowArrayStream, code: i32) -> ArrowError {
    // SAFETY: the stream was not released, and its text lives until it is asked again.
    let text = stream.get_last_error.map(|ask| unsafe { ask(stream) }).filter(|text| !text.is_null());
    let text = text.map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    ArrowError::CDataInterface(text.unwrap_or_else(|| format!("error {code}")))
}

fn batch(schema: &SchemaRef, array: FFI_ArrowArray) -> Result<RecordBatch, ArrowError> {
    let rows = DataType::Struct(schema.fields().clone());
    // SAFETY: who gave the array gave the schema for it.
    let rows = StructArray::from(settled(unsafe { from_ffi_and_data_type(array, rows) }?));
    if rows.nulls().is_some_and(|nulls| nulls.null_count() > 0) {
        return Err(ArrowError::CDataInterface(
            "a row is null as a whole: rows have values, or nulls, in columns".into(),
        ));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::clone(schema), rows.into_parts().1, &options)
}

/// The same values, with structs and lists of a fixed size that begin where what is in them does.
fn settled(data: ArrayData) -> ArrayData {
    if data.is_empty() {
        return ArrayData::new_empty(data.data_type());
    }
    let (data_type, len, nulls, offset, buffers, children) = data.into_parts();
    let width = match &data_type {
        DataType::Struct(_) => Some(1),
        DataType::FixedSizeList(_, width) => usize::try_from(*width).ok(),
        _ => None,
    };
    let settled_in = |child| match width {
        Some(width) => settled(window(child, offset * width, len * width)),
        None => settled(child),
    };
    let children = children.into_iter().map(settled_in).collect();
    let offset = if width.is_some() { 0 } else { offset };
    rebuilt(data_type, (offset, len), nulls, buffers, children)
}

/// A part of an array; what is in it stays as it is.
fn window(data: ArrayData, from: usize, rows: usize) -> ArrayData {
    let (data_type, _, nulls, offset, buffers, children) = data.into_parts();
    let nulls = nulls.map(|nulls| nulls.slice(from, rows));
    rebuilt(data_type, (offset + from, rows), nulls, buffers, children)
}

fn rebuilt(
    data_type: DataType,
    (offset, len): (usize, usize),
    nulls: Option<NullBuffer>,
    buffers: Vec<Buffer>,
    children: Vec<ArrayData>,
) -> ArrayData {
    let data = ArrayDataBuilder::new(data_type).offset(offset).len(len).nulls(nulls).buffers(buffers);
    // SAFETY: the same values as before, some of them left out at the ends.
    unsafe { data.child_data(children).build_unchecked() }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, make_array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn structs(inner: ArrayData, offset: usize, len: usize) -> ArrayData {
        let field = Field::new("x", inner.data_type().clone(), true);
        rebuilt(DataType::Struct(vec![field].into()), (offset, len), None, Vec::new(), vec![inner])
    }

    #[test]
    fn structs_within_structs_begin_where_they_should() {
        let numbers = Int64Array::from_iter_values(0..10).into_data();
        let (inner, outer) = (structs(numbers, 2, 8), 3);
        let found = make_array(settled(structs(inner, outer, 4)));
        let found: &ArrayRef = found.as_struct().column(0).as_struct().column(0);
        assert_eq!(found.as_primitive::<Int64Type>().values(), &[5, 6, 7, 8]);
    }

    #[test]
    fn an_empty_slice_has_no_offset() {
        let data = StringArray::from(vec!["abc"]).into_data();
        let (data_type, _, _, _, buffers, _) = data.into_parts();
        let cut = rebuilt(data_type, (1, 0), None, vec![buffers[0].clone(), Vec::<u8>::new().into()], Vec::new());
        assert_eq!(settled(cut).buffers()[0].typed_data::<i32>().iter().max(), Some(&0));
    }
}
