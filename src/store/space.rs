//! What the state directory takes and what is left where it is.

use std::fs;
use std::path::Path;

use super::{DATABASE_FILE, log_of};

/// Sizes in bytes; 0 of what can't be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Of the database.
    pub database_bytes: u64,
    /// Of its write-ahead log.
    pub wal_bytes: u64,
    /// Left on the file system, for an ordinary user.
    pub free_bytes: u64,
    /// Of the file system, what is reserved for root left out.
    pub size_bytes: u64,
}

impl Space {
    /// As it is now.
    pub fn of(directory: &Path) -> Self {
        let database = directory.join(DATABASE_FILE);
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let (free_bytes, size_bytes) = match rustix::fs::statvfs(directory) {
            Ok(stat) => {
                let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
                let blocks = stat.f_blocks.saturating_sub(reserved);
                (stat.f_bavail * stat.f_frsize, blocks * stat.f_frsize)
            }
            Err(_) => (0, 0),
        };
        Self {
            database_bytes: size(&database),
            wal_bytes: size(&log_of(&database)),
            free_bytes,
            size_bytes,
        }
    }

    /// Share of the file system in use, `0..=1`; `None` when that can't be told.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no last byte")]
    pub fn used(&self) -> Option<f64> {
        (self.size_bytes > 0).then(|| 1.0 - self.free_bytes as f64 / self.size_bytes as f64)
    }
}
