//! Maps that are written without building them.

use serde::{Serialize, Serializer};

/// A map written from an iterator, without building it.
pub(in crate::model) struct MapRef<F>(pub(in crate::model) F);

impl<K: Serialize, V: Serialize, I: Iterator<Item = (K, V)>, F: Fn() -> I> Serialize for MapRef<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}
