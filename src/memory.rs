//! What the process really holds: an allocator that counts, and the system's own figures.
//!
//! The engine counts what its operators tell it. Decode buffers, channels, plans and some aggregates tell nothing; what
//! the allocator gave out does. The binary and the Python module install [`Counting`]; a program that embeds a colony may:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: apiary::memory::Counting = apiary::memory::Counting;
//!
//! let text = vec![0u8; 1 << 20];
//! assert!(apiary::memory::held().is_some_and(|bytes| bytes >= 1 << 20));
//! # drop(text);
//! ```

// An allocator is unsafe by its trait, and so is a call of the C library.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrow::array::{ArrayData, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::error::ArrowError;
use bytes::Bytes;

use crate::sync::lock;

#[cfg(not(target_os = "linux"))]
use std::alloc::System as Allocator;
#[cfg(target_os = "linux")]
use tikv_jemallocator::Jemalloc as Allocator;

/// Bytes that a thread gives out or takes back before it tells: threads do not wait for each other's counts.
const GRAIN: i64 = 64 << 10;

static HELD: AtomicI64 = AtomicI64::new(0);
/// Bytes of the rows that callers keep.
static LENT: AtomicU64 = AtomicU64::new(0);
/// How often each piece of memory is lent, and its bytes, by its address: batches share texts.
static TIMES_LENT: Mutex<BTreeMap<usize, (u32, u64)>> = Mutex::new(BTreeMap::new());

thread_local! {
    static UNTOLD: Cell<i64> = const { Cell::new(0) };
}

/// jemalloc where there is one, counted. Measured while lists and texts are gathered, glibc's allocator keeps up to twice as
/// much from the system as it gave out, however often it is told to let go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

/// Bytes that are given out, to 64 KiB a thread; `None` when the process has another allocator.
pub fn held() -> Option<u64> {
    match HELD.load(Ordering::Relaxed) {
        0 => None,
        held => Some(held.max(0) as u64),
    }
}

/// How jemalloc works, which looks for this name: few arenas, for what is free in one is of no use to another; what is free
/// goes back to the system after a second, because at once costs as much again as the work. Where memory
/// is short, [`trim`] gives it back before.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Configuration = Configuration(c"narenas:4,dirty_decay_ms:1000,muzzy_decay_ms:0".as_ptr());

#[cfg(target_os = "linux")]
#[repr(transparent)]
struct Configuration(*const std::ffi::c_char);

// SAFETY: nobody writes it.
#[cfg(target_os = "linux")]
unsafe impl Sync for Configuration {}

/// Gives back to the system what is free, now.
pub(crate) fn trim() {
    #[cfg(target_os = "linux")]
    if held().is_some() {
        // All arenas: MALLCTL_ARENAS_ALL.
        let purge = c"arena.4096.purge".as_ptr();
        let nothing = std::ptr::null_mut();
        // SAFETY: the control takes no value and gives none.
        unsafe { tikv_jemalloc_sys::mallctl(purge, nothing, nothing.cast(), nothing, 0) };
    }
}

/// Bytes of the process that are in memory, by the system; `None` where it does not tell.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Those of them that no file has: the system can give none of them to others.
pub(crate) fn resident_without_files() -> Option<u64> {
    status("RssAnon:")
}

fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes of the rows that were [lent](lend) and are not let go of.
pub(crate) fn lent() -> u64 {
    LENT.load(Ordering::Relaxed)
}

/// The same rows, which count as those of a caller until the last of them is dropped.
///
/// # Errors
/// Never in practice: the columns were a batch before.
pub(crate) fn lend(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    match held() {
        Some(_) => counted(batch),
        None => Ok(batch.clone()),
    }
}

fn counted(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| make_array(lent_data(&column.to_data()))).collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &rows)
}

fn lent_data(data: &ArrayData) -> ArrayData {
    let nulls = data.nulls().map(|nulls| {
        let bits = nulls.inner();
        let lent = BooleanBuffer::new(Lent::buffer(bits.inner()), bits.offset(), bits.len());
        NullBuffer::new(lent)
    });
    let lent = data.clone().into_builder().nulls(nulls);
    let lent = lent.buffers(data.buffers().iter().map(Lent::buffer).collect());
    let lent = lent.child_data(data.child_data().iter().map(lent_data).collect());
    // SAFETY: they are the same bytes in the same places; only who owns them is another.
    unsafe { lent.build_unchecked() }
}

/// Memory of rows that a caller has.
struct Lent(Buffer);

impl Lent {
    fn buffer(buffer: &Buffer) -> Buffer {
        if buffer.is_empty() {
            return buffer.clone();
        }
        let mut lent = lock(&TIMES_LENT);
        let (times, bytes) = lent.entry(buffer.as_ptr() as usize).or_insert((0, buffer.len() as u64));
        if *times == 0 {
            LENT.fetch_add(*bytes, Ordering::Relaxed);
        }
        *times += 1;
        Buffer::from(Bytes::from_owner(Self(buffer.clone())))
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut lent = lock(&TIMES_LENT);
        if let Entry::Occupied(mut entry) = lent.entry(self.0.as_ptr() as usize) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                LENT.fetch_sub(entry.remove().1, Ordering::Relaxed);
            }
        }
    }
}

fn count(bytes: i64) {
    // A thread that ends has no place of its own any more.
    let told = UNTOLD.try_with(|untold| {
        let sum = untold.get() + bytes;
        let tell = sum.abs() >= GRAIN;
        untold.set(if tell { 0 } else { sum });
        if tell { sum } else { 0 }
    });
    match told.unwrap_or(bytes) {
        0 => {}
        sum => {
            HELD.fetch_add(sum, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the allocator asks for.
        let given = unsafe { Allocator.alloc(layout) };
        if !given.is_null() {
            count(layout.size() as i64);
        }
        given
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let given = unsafe { Allocator.alloc_zeroed(layout) };
        if !given.is_null() {
            count(layout.size() as i64);
        }
        given
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { Allocator.dealloc(pointer, layout) };
        count(-(layout.size() as i64));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let given = unsafe { Allocator.realloc(pointer, layout, size) };
        if !given.is_null() {
            count(size as i64 - layout.size() as i64);
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_are_lent_until_the_last_of_them_is_dropped() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..1000).map(|i| (i % 7 != 0).then_some(i))));
        let text = "a text that does not fit into its view".repeat(100);
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec![text.as_str(); 1000]));
        let lists = (0..1000).map(|i| Some(vec![Some(i); 3]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("t", texts), ("l", lists)]).unwrap();
        let (first, second) = (batch.slice(0, 500), batch.slice(500, 500));
        let all = [counted(&first).unwrap(), counted(&second).unwrap()];
        assert_eq!([&all[0], &all[1]], [&first, &second]);
        // What both share counts once.
        let texts: usize = batch.column(1).as_string_view().data_buffers().iter().map(Buffer::len).sum();
        let (least, most) = (texts + 1000 * (8 + 16 + 24), texts + 1000 * (8 + 16 + 24 + 8) + 1000);
        assert!((least as u64..most as u64).contains(&lent()), "{} of {least}", lent());
        let [first, second] = all;
        drop(first);
        let number = second.column(0).clone();
        assert!(lent() > texts as u64);
        drop(second);
        assert!((4000..8000).contains(&lent()), "{}", lent());
        drop(number);
        assert_eq!(lent(), 0);
    }
}
