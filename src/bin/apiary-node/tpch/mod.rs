//! The TPC-H benchmark: its tables as streams of rows, its queries as text.

pub(crate) mod parquet_files;
pub(crate) mod queries;
pub(crate) mod rows;
pub(crate) mod tables;
