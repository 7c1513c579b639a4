//! The process's memory allocator.
//!
//! glibc's keeps what a drained backlog held, spread over heaps that a few long-lived neighbours pin; the memory alarm looks
//! at resident octets and would then never end. mimalloc gives pages back.
//!
//! By itself it does so on whichever thread asks for memory next, which was the owner, for 6 to 17 ms while a long queue moved
//! (ADR 0020). So its own time for that is set far away, and a thread that does nothing else sees to it.
//!
//! While the broker starts, large blocks don't come from mimalloc's own stock ([`Starting`]).

use libmimalloc_sys as mimalloc_api;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often memory is given back. What is freed meanwhile is resident beside what is in use: a fast publisher lets go of a
/// gigabyte a second.
const EVERY: Duration = Duration::from_millis(100);
/// mimalloc's own delay, milliseconds: a day. It must be above zero, else nothing is noted as to be given back.
const FAR_MS: std::ffi::c_long = 86_400_000;
/// `mi_option_purge_delay` of mimalloc 3's `mi_option_e`; the crate has no name for it.
const PURGE_DELAY: mimalloc_api::mi_option_t = 15;

/// `mi_option_arena_max_object_size`, KiB; the crate has no name for it either.
const STOCK_MOST: mimalloc_api::mi_option_t = 45;
/// What is larger than this is the system's while the broker starts, KiB.
const LARGE_KIB: std::ffi::c_long = 1024;

/// As long as this lives, a large block comes from the system as it is asked for, and goes back when it is let go.
///
/// Opening the log's database reads it in blocks of 8 MiB, and then takes some that are hardly used for as long as the broker
/// lives. From mimalloc's stock they would be the same ones, resident from the first octet to the last (ADR 0009).
#[derive(Debug)]
pub(crate) struct Starting {
    before: std::ffi::c_long,
}

impl Starting {
    /// From now on.
    pub(crate) fn begin() -> Self {
        let before = option(STOCK_MOST);
        set_option(STOCK_MOST, LARGE_KIB);
        Self { before }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        set_option(STOCK_MOST, self.before);
    }
}

/// Has free memory given back by a thread of its own from now on. The variable `MIMALLOC_PURGE_DELAY` still wins.
///
/// # Errors
/// When there can't be a thread; mimalloc then goes on by itself.
pub(crate) fn give_back_in_background() -> std::io::Result<()> {
    std::thread::Builder::new().name("give-back".into()).spawn(|| {
        set_option(PURGE_DELAY, FAR_MS);
        loop {
            std::thread::sleep(EVERY);
            give_back();
        }
    })?;
    Ok(())
}

/// Sets an option, unless the environment has.
#[allow(unsafe_code)]
fn set_option(option: mimalloc_api::mi_option_t, value: std::ffi::c_long) {
    // SAFETY: an option's number and value are plain integers, stored atomically; see ADR 0020.
    unsafe { mimalloc_api::mi_option_set_default(option, value) };
}

#[allow(unsafe_code)]
fn option(option: mimalloc_api::mi_option_t) -> std::ffi::c_long {
    // SAFETY: reads a plain integer; see ADR 0020.
    unsafe { mimalloc_api::mi_option_get(option) }
}

#[allow(unsafe_code)]
fn give_back() {
    // SAFETY: touches only free memory, of this thread's heap and of the arenas, which mimalloc guards itself; see ADR 0020.
    unsafe { mimalloc_api::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_those_that_are_meant() {
        // 3.x begins with 1000, and no other option does
        assert_eq!(option(PURGE_DELAY), 1000);
        set_option(PURGE_DELAY, FAR_MS);
        assert_eq!(option(PURGE_DELAY), FAR_MS);
        // 2 GiB: no other option begins with that
        const STOCK_KIB: std::ffi::c_long = 2 << 20;
        assert_eq!(option(STOCK_MOST), STOCK_KIB);
        let starting = Starting::begin();
        assert_eq!(option(STOCK_MOST), LARGE_KIB);
        drop(starting);
        assert_eq!(option(STOCK_MOST), STOCK_KIB);
    }
}
