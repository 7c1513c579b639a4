//! The process's memory allocator.
//!
//! glibc's keeps what a drained backlog held, spread over heaps that a few long-lived neighbours pin; the memory alarm looks
//! at resident octets and would then never end. mimalloc gives pages back shortly after they are free.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
