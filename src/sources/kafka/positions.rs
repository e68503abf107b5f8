//! What a stored position means for the log as it is now. Pure.

use std::sync::Arc;

use super::OffsetReset;
use super::topic::Topic;
use crate::store::Position;

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// The oldest offset there is.
    pub(super) low: i64,
    /// The offset after the newest record that can be read.
    pub(super) high: i64,
}

/// What to do with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Read on where we are.
    Continue,
    /// Records were gone before they were read: go on at this position, which counts them.
    Resume(Position),
    /// This is another log, or a shorter one. Only an operator can tell what that should mean.
    Stop(String),
}

/// Where a partition that was never read before begins.
pub(super) fn first(
    topic: &Arc<str>,
    described: &Topic,
    partition: i32,
    ends: Ends,
    reset: OffsetReset,
) -> Position {
    let next_offset = match reset {
        OffsetReset::Earliest => ends.low,
        OffsetReset::Latest => ends.high,
    };
    Position {
        topic: topic.clone(),
        partition,
        next_offset,
        topic_id: described.id.as_str().into(),
        ..Position::default()
    }
}

/// Whether a position is one of the topic that has this id. Where an id is missing nothing can be
/// told, and at offset 0 nothing can have been skipped.
pub(super) fn is_of(position: &Position, id: &str) -> bool {
    let known = &*position.topic_id;
    known.is_empty() || id.is_empty() || known == id || position.next_offset == 0
}

/// What the ends of the log say about `position`, whose topic has this id.
pub(super) fn judge(position: &Position, id: &str, ends: Ends) -> Finding {
    let Position { topic, partition, next_offset, .. } = position;
    if !is_of(position, id) {
        return Finding::Stop(format!(
            "the topic {topic} was deleted and made again (its id is {id}, offset {next_offset} \
             is one of {}); --kafka-reset-positions reads the new one from its beginning",
            position.topic_id
        ));
    }
    if *next_offset > ends.high {
        return Finding::Stop(format!(
            "the log of partition {partition} of {topic} ends at {}, before offset {next_offset} \
             up to which it was read: records were cut off, or this is another log; \
             --kafka-reset-positions reads it again from its beginning",
            ends.high
        ));
    }
    if *next_offset < ends.low {
        let gone = u64::try_from(ends.low - next_offset).unwrap_or(0);
        return Finding::Resume(Position {
            next_offset: ends.low,
            lost: position.lost + gone,
            ..position.clone()
        });
    }
    Finding::Continue
}

/// The position at the beginning of a log that is not the one of `position`.
pub(super) fn reset(position: &Position, id: &str, ends: Ends) -> Position {
    Position {
        next_offset: ends.low,
        topic_id: id.into(),
        // Records without an identity of their own are told by their offsets: these are others.
        resets: position.resets + 1,
        ..position.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next_offset: i64) -> Position {
        Position {
            topic: "t".into(),
            partition: 2,
            next_offset,
            topic_id: "old".into(),
            lost: 3,
            ..Position::default()
        }
    }

    #[track_caller]
    fn check(next_offset: i64, id: &str, low: i64, high: i64, expected: &str) {
        let verdict = match judge(&position(next_offset), id, Ends { low, high }) {
            Finding::Continue => "continue".to_owned(),
            Finding::Resume(at) => format!("resume at {} lost {}", at.next_offset, at.lost),
            Finding::Stop(why) => {
                assert!(why.contains("--kafka-reset-positions"), "{why}");
                let again = if why.contains("made again") { "another topic" } else { "shorter" };
                format!("stop: {again}")
            }
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn a_position_is_judged_by_the_topic_and_the_ends_of_the_log() {
        check(5, "old", 0, 9, "continue");
        check(5, "old", 5, 5, "continue");
        check(0, "old", 0, 0, "continue");
        check(5, "old", 8, 9, "resume at 8 lost 6");
        check(5, "old", 8, 8, "resume at 8 lost 6");
        check(5, "old", 0, 4, "stop: shorter");
        check(5, "new", 0, 9, "stop: another topic");
        check(5, "new", 0, 0, "stop: another topic");
        check(5, "new", 7, 9, "stop: another topic");
        // Nothing of it was read, so nothing can be skipped.
        check(0, "new", 0, 9, "continue");
        check(0, "new", 2, 9, "resume at 2 lost 5");
        // Brokers without ids can't tell.
        check(5, "", 0, 9, "continue");
    }

    #[test]
    fn a_reset_begins_the_new_log_and_tells_its_records_apart() {
        let ends = Ends { low: 4, high: 9 };
        let again = reset(&position(7), "new", ends);
        assert_eq!((again.next_offset, &*again.topic_id, again.resets), (4, "new", 1));
        assert_eq!(judge(&again, "new", ends), Finding::Continue);
        assert_eq!(again.lost, 3);
    }

    #[test]
    fn a_new_store_begins_where_it_is_told() {
        let described = Topic { id: "id".to_owned(), partitions: 1 };
        let ends = Ends { low: 4, high: 9 };
        let begin = |reset| first(&"t".into(), &described, 0, ends, reset);
        assert_eq!(begin(OffsetReset::Earliest).next_offset, 4);
        assert_eq!(begin(OffsetReset::Latest).next_offset, 9);
        assert_eq!(&*begin(OffsetReset::Latest).topic_id, "id");
    }
}
