//! The Python face: the native module `apiary._apiary`, which the pure-Python package in `apiary/` beside this file wraps.
//!
//! What a Python user sees — names, docstrings, conversions to pandas and friends — is Python. What is here is what only
//! Rust can do, and it keeps these promises:
//!
//! - every wait releases the GIL ([`wait`]), and a wait on the main thread ends at Ctrl-C with the work cancelled;
//! - data crosses as Arrow C streams, without a copy ([`input`] and [`imported`] in, [`export`] out);
//! - an error becomes the exception of its kind ([`errors`]);
//! - a process that was forked from the one that started a colony is told to start its own ([`link`]).
//!
//! ```text
//!  Apiary, Frame (Python) ──▶ PyColony ──▶ Link ──▶ Colony, Session
//!  FrameStream (Python)   ──▶ PyAppender ────▶ FrameStream
//!  Result (Python)        ──▶ PyStream ──▶ Feed ──▶ QueryStream
//!                                            └────▶ Live (Arrow C stream)
//! ```

// PyO3's macros expand to unsafe code; none is written by hand in this folder, but for that of Arrow's C interface.
#![allow(unsafe_code)]

mod appender;
mod colony;
mod errors;
mod export;
mod feed;
mod imported;
mod input;
mod link;
mod params;
mod preview;
mod records;
mod spool;
mod stream;
mod wait;

/// Native part of the package `apiary`; import `apiary` instead.
#[pyo3::pymodule]
mod _apiary {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::appender::PyAppender;
    #[pymodule_export]
    use super::colony::PyColony;
    #[pymodule_export]
    use super::stream::PyStream;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
