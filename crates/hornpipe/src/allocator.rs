//! Makes the C library's allocator give memory back.
//!
//! By default glibc raises the size from which it maps blocks of their own as soon as such a block is freed. Message
//! batches then live in its heaps, where a few long-lived neighbours keep gigabytes of a drained backlog resident: the
//! memory alarm, which looks at resident octets, would never end. Setting the trim threshold, to whatever value, switches
//! that off. The C library reads it when a process begins, so we begin again.

/// Octets at the top of a heap that are kept; glibc's default is 128 KiB.
const TRIM_THRESHOLD: &str = "1048576";
const VARIABLE: &str = "MALLOC_TRIM_THRESHOLD_";

/// Replaces this process by itself with the setting, once. Goes on as it is when that isn't possible, when the operator has
/// chosen a setting, and where there is no glibc.
#[cfg(target_env = "gnu")]
pub(crate) fn settle() {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    if chosen(|variable| std::env::var_os(variable).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Only comes back when it failed.
    let _ = std::process::Command::new(program).arg0(name).args(arguments).env(VARIABLE, TRIM_THRESHOLD).exec();
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn settle() {}

/// Whether the allocator has been set up: by the operator, or by us before we began again.
#[cfg(target_env = "gnu")]
fn chosen(is_set: impl Fn(&str) -> bool) -> bool {
    [VARIABLE, "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"].into_iter().any(is_set)
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn begins_again_once_and_not_against_the_operator() {
        assert!(!chosen(|_| false));
        for variable in [VARIABLE, "GLIBC_TUNABLES", "LD_PRELOAD"] {
            assert!(chosen(|name| name == variable), "{variable}");
        }
    }
}
