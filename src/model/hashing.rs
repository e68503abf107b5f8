//! Hashes that are part of the saved state, so that none of them may ever change.

use crate::outcome::Feature;

/// Tells texts and booleans apart; `None` for numbers, which have no distinct values to count.
pub(super) fn fingerprint(value: &Feature) -> Option<u64> {
    let bytes = match value {
        Feature::Text(text) => text.as_bytes(),
        Feature::Bool(true) => b"\x01",
        Feature::Bool(false) => b"\x00",
        Feature::Number(_) => return None,
    };
    Some(hash(bytes))
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): part of the saved state, so it must never change.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
