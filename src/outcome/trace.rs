//! Identifiers of traces (W3C Trace Context), by which an execution's telemetry finds the decision that it
//! came of.

use data_encoding::HEXLOWER_PERMISSIVE;

/// What all that is done for one request has in common; never all zero.
pub type TraceId = [u8; 16];

/// An identifier of `N` bytes in hexadecimal, in either case.
pub fn id_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut id = [0; N];
    if HEXLOWER_PERMISSIVE.decode_len(text.len()).ok()? != N {
        return None;
    }
    HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut id).ok()?;
    Some(id)
}

/// A trace's identifier: 32 hexadecimal digits that are not all zero.
pub fn trace_id(text: &str) -> Option<TraceId> {
    id_of_hex(text).filter(|id| *id != TraceId::default())
}

/// The trace that a header `traceparent` names: `VERSION-TRACE-PARENT-FLAGS`. Later versions may go on
/// after that, and `ff` is none (w3.org/TR/trace-context, section 3.2).
pub fn trace_of_parent(header: &str) -> Option<TraceId> {
    let mut parts = header.trim().split('-');
    let version: [u8; 1] = id_of_hex(parts.next()?)?;
    let trace = trace_id(parts.next()?)?;
    let _parent: [u8; 8] = id_of_hex(parts.next()?)?;
    let _flags: [u8; 1] = id_of_hex(parts.next()?)?;
    let goes_on = parts.next().is_some();
    (version != [0xff] && !(version == [0] && goes_on)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_a_parent_is_known_where_the_header_is_one() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let expected = trace_id(TRACE);
        assert_eq!(expected.map(|id| (id[0], id[15])), Some((0x4b, 0x36)));
        for header in [
            format!("00-{TRACE}-00f067aa0ba902b7-01"),
            format!(" 00-{}-00f067aa0ba902b7-00 ", TRACE.to_uppercase()),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-will-be"),
        ] {
            assert_eq!(trace_of_parent(&header), expected, "{header}");
        }
        for header in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", &TRACE[1..]),
            format!("00-{TRACE}-00f067aa0ba902b-01"),
            format!("00-{TRACE}-00f067aa0ba902bé-01"),
        ] {
            assert_eq!(trace_of_parent(&header), None, "{header}");
        }
    }
}
