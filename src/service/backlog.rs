//! Tells of a backlog that makes no progress, whatever keeps it: by what waits and what was done, never by
//! what a part says of itself. Pure: what is seen, the time included, is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Queue {
    /// Records of a partition of the topic, to be stored.
    Partition(i32),
    /// Full micro-batches of journaled outcomes, to be learned.
    Batches,
    /// Journaled outcomes of whatever batch, to be learned.
    Outcomes,
}

/// One queue, as seen at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) queue: Queue,
    /// What waits.
    pub(super) waiting: u64,
    /// A number that changes whenever something was done.
    pub(super) done: u64,
    /// How long nothing may be done while something waits.
    pub(super) patience: Duration,
}

/// Remembers since when nothing was done.
#[derive(Default)]
pub(super) struct Backlogs(BTreeMap<Queue, (u64, Instant)>);

impl Backlogs {
    /// The first queue in which something waits and nothing was done for longer than its patience, in
    /// words.
    pub(super) fn look(
        &mut self,
        seen: impl IntoIterator<Item = Seen>,
        now: Instant,
    ) -> Option<String> {
        let before = std::mem::take(&mut self.0);
        let mut stalled = None;
        for Seen { queue, waiting, done, patience } in seen {
            if waiting == 0 {
                continue;
            }
            let since = match before.get(&queue) {
                Some((then, since)) if *then == done => *since,
                _ => now,
            };
            self.0.insert(queue, (done, since));
            let silence = now.saturating_duration_since(since);
            if silence > patience && stalled.is_none() {
                let seconds = silence.as_secs();
                stalled = Some(match queue {
                    Queue::Partition(number) => format!(
                        "{waiting} records of partition {number} wait in the topic, and none was \
                         stored for {seconds} s"
                    ),
                    Queue::Batches | Queue::Outcomes => format!(
                        "{waiting} outcomes wait to be learned, and none was for {seconds} s"
                    ),
                });
            }
        }
        stalled
    }

    /// Forgets what was seen: the process did not run meanwhile.
    pub(super) fn begin_anew(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn partition(number: i32, waiting: u64, done: u64) -> Seen {
        Seen { queue: Queue::Partition(number), waiting, done, patience: PATIENCE }
    }

    #[test]
    fn what_waits_without_progress_is_told_once_patience_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlogs = Backlogs::default();
        assert_eq!(backlogs.look([partition(0, 5, 100)], at(0)), None);
        assert_eq!(backlogs.look([partition(0, 9, 100)], at(15)), None, "not longer than that");
        let told = backlogs.look([partition(0, 9, 100)], at(16)).expect("it stands still");
        assert!(told.contains("9 records of partition 0") && told.contains("16 s"), "{told}");
        // Progress, however small, ends it.
        assert_eq!(backlogs.look([partition(0, 8, 101)], at(17)), None);
        assert_eq!(backlogs.look([partition(0, 8, 101)], at(32)), None);
        assert!(backlogs.look([partition(0, 8, 101)], at(33)).is_some());
    }

    #[test]
    fn an_empty_queue_never_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlogs = Backlogs::default();
        assert_eq!(backlogs.look([partition(0, 1, 7)], at(0)), None);
        assert_eq!(backlogs.look([partition(0, 0, 7)], at(10)), None);
        assert_eq!(backlogs.look([partition(0, 1, 7)], at(20)), None, "it was empty meanwhile");
        assert!(backlogs.look([partition(0, 1, 7)], at(36)).is_some());
        backlogs.begin_anew();
        assert_eq!(backlogs.look([partition(0, 1, 7)], at(90)), None);
    }

    #[test]
    fn each_queue_is_looked_at_by_itself() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let batches =
            |waiting| Seen { queue: Queue::Batches, waiting, done: 3, patience: PATIENCE };
        let mut backlogs = Backlogs::default();
        backlogs.look([partition(0, 4, 1), partition(1, 4, 1), batches(20)], at(0));
        // One moves on, one stands still, one is done.
        let told = backlogs.look([partition(0, 4, 2), partition(1, 4, 1), batches(0)], at(20));
        assert!(told.is_some_and(|told| told.contains("partition 1 ")));
        let mut backlogs = Backlogs::default();
        backlogs.look([batches(20)], at(0));
        let told = backlogs.look([batches(20)], at(16)).expect("it stands still");
        assert!(told.contains("20 outcomes wait to be learned"), "{told}");
    }
}
