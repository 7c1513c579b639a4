//! What can go wrong with the disk, told apart by what the operator or the broker must do about it.

use thiserror::Error;

/// An error of the store.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Another process has the folder open. Nothing was touched.
    #[error("the data folder {dir} is in use by another process; stop it or give this one a folder of its own")]
    Locked {
        /// The folder.
        dir: String,
    },
    /// Something that was confirmed to be on disk is missing or wrong. While opening: the store refuses to start unless
    /// [`crate::StoreConfig::accept_data_loss`] is set. While reading: the run can't be served.
    #[error("{file} is damaged: {reason}")]
    Damaged {
        /// The file, or the record by its number.
        file: String,
        /// What is wrong with it and where.
        reason: String,
    },
    /// Data of a format this version does not know, most likely written by a newer one. Nothing was touched.
    #[error("{what} has format version {found}, this version of hornpipe reads up to {known}; use a newer one")]
    Unsupported {
        /// What was read.
        what: String,
        /// The version found.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// The medium failed. Sticky: everything later fails the same way, nothing after it may be confirmed, the process must
    /// end. In particular a failed fdatasync is never retried, because the kernel drops the dirty state.
    #[error("storage failed: {0}")]
    Fatal(String),
}

impl StoreError {
    /// Damage in words.
    pub(crate) fn damaged(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { file: file.into(), reason: reason.into() }
    }
    /// An IO error with what was being done.
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::Fatal(format!("{what}: {error}"))
    }
}
