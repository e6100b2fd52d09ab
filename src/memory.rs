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

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

/// Bytes that a thread gives out or takes back before it tells: threads do not wait for each other's counts.
const GRAIN: i64 = 64 << 10;

static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static UNTOLD: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

/// Bytes that are given out, to 64 KiB a thread; `None` when the process has another allocator.
pub fn held() -> Option<u64> {
    match HELD.load(Ordering::Relaxed) {
        0 => None,
        held => Some(held.max(0) as u64),
    }
}

/// Has the allocator give large pieces back to the system as soon as they are free, once for the process. Left to itself
/// glibc keeps up to 32 MiB of every piece's size and an arena for every thread: memory that no budget knows of.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if held().is_some() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            for (what, value) in
                [(libc::M_MMAP_THRESHOLD, 256 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20), (libc::M_ARENA_MAX, 4)]
            {
                // SAFETY: it only sets a number. One that is refused changes nothing.
                unsafe { libc::mallopt(what, value) };
            }
        });
    }
}

/// Gives what is free between small pieces back to the system.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no memory of anybody's.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Bytes of the process that are in memory, by the system; `None` where it does not tell.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
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

// SAFETY: every call goes to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        let given = unsafe { System.alloc(layout) };
        if !given.is_null() {
            count(layout.size() as i64);
        }
        given
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let given = unsafe { System.alloc_zeroed(layout) };
        if !given.is_null() {
            count(layout.size() as i64);
        }
        given
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
        count(-(layout.size() as i64));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let given = unsafe { System.realloc(pointer, layout, size) };
        if !given.is_null() {
            count(size as i64 - layout.size() as i64);
        }
        given
    }
}
