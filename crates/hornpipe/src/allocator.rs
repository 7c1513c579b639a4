//! The process's memory allocator.
//!
//! glibc's keeps what a drained backlog held, spread over heaps that a few long-lived neighbours pin; the memory alarm looks
//! at resident octets and would then never end. mimalloc gives pages back.
//!
//! By itself it does so on whichever thread asks for memory next, which was the owner, for 6 to 17 ms while a long queue moved
//! (ADR 0020). So its own time for that is set far away, and a thread that does nothing else sees to it.

use libmimalloc_sys as mimalloc_api;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often memory is given back.
const EVERY: Duration = Duration::from_secs(1);
/// mimalloc's own delay, milliseconds: a day. It must be above zero, else nothing is noted as to be given back.
const FAR_MS: std::ffi::c_long = 86_400_000;
/// `mi_option_purge_delay` of mimalloc 3's `mi_option_e`; the crate has no name for it.
const PURGE_DELAY: mimalloc_api::mi_option_t = 15;

/// Has free memory given back by a thread of its own from now on. The variable `MIMALLOC_PURGE_DELAY` still wins.
///
/// # Errors
/// When there can't be a thread; mimalloc then goes on by itself.
pub(crate) fn give_back_in_background() -> std::io::Result<()> {
    std::thread::Builder::new().name("give-back".into()).spawn(|| {
        set_delay();
        loop {
            std::thread::sleep(EVERY);
            give_back();
        }
    })?;
    Ok(())
}

#[allow(unsafe_code)]
fn set_delay() {
    // SAFETY: an option's number and value are plain integers, stored atomically; see ADR 0020.
    unsafe { mimalloc_api::mi_option_set_default(PURGE_DELAY, FAR_MS) };
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
    #[allow(unsafe_code)]
    fn the_option_is_the_delay() {
        // SAFETY: reads and writes an integer.
        let get = || unsafe { mimalloc_api::mi_option_get(PURGE_DELAY) };
        // 3.x begins with 1000, and no other option does.
        assert_eq!(get(), 1000);
        set_delay();
        assert_eq!(get(), FAR_MS);
    }
}
