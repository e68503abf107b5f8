//! The door into the learner: a bounded queue, and what its senders wait for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::RwLock;

use super::{AppendReply, AppendRequest, Event, Record};
use crate::error::{Error, Result};
use crate::outcome::Refusal;

/// Longest wait for a place in the queue, once a body has begun to be taken.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The sending end of the learner's queue, for any number of threads; emptied at the stop.
pub struct Inbox {
    slot: RwLock<Option<Sender<Event>>>,
}

impl Inbox {
    /// The queue that ends in `sender`.
    pub fn new(sender: Sender<Event>) -> Self {
        Self { slot: RwLock::new(Some(sender)) }
    }

    fn sender(&self) -> Result<Sender<Event>> {
        let slot = self.slot.read();
        slot.clone().ok_or_else(|| Error::Unavailable("the service is stopping".to_owned()))
    }

    /// Lets go of the learner: it ends when it has taken what was sent.
    pub fn close(&self) {
        self.slot.write().take();
    }

    /// Events waiting, and the most that may.
    pub fn depth(&self) -> (usize, usize) {
        self.sender()
            .map_or((0, 0), |sender| (sender.len(), sender.capacity().unwrap_or(usize::MAX)))
    }

    /// Sends an event, if there is a place for it now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the queue is full or the service is stopping.
    pub fn try_send(&self, event: Event) -> Result<()> {
        match self.offer(event)? {
            None => Ok(()),
            Some(_) => Err(Error::Unavailable(
                "the queue is full: outcomes come faster than they are stored".to_owned(),
            )),
        }
    }

    /// Sends an event, or gives it back when the queue is full.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the service is stopping.
    pub fn offer(&self, event: Event) -> Result<Option<Event>> {
        match self.sender()?.try_send(event) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(event)) => Ok(Some(event)),
            Err(TrySendError::Disconnected(_)) => {
                Err(Error::Unavailable("the service is stopping".to_owned()))
            }
        }
    }

    /// Sends an event, waiting for a place.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there was none for long or the service is stopping.
    pub fn send(&self, event: Event) -> Result<()> {
        self.sender()?
            .send_timeout(event, SEND_TIMEOUT)
            .map_err(|_| Error::Unavailable("the queue stayed full".to_owned()))
    }

    /// Sends a request built around a reply channel and waits for the answer.
    ///
    /// # Errors
    /// As [`Inbox::try_send`], and what the learner answers.
    pub fn ask<T>(&self, event: impl FnOnce(Sender<Result<T>>) -> Event) -> Result<T> {
        let (reply_tx, reply_rx) = bounded(1);
        self.try_send(event(reply_tx))?;
        reply_rx.recv().unwrap_or_else(|_| Err(Error::Unavailable("the learner ended".to_owned())))
    }

    /// Makes records durable. They are sent on in parts of [`SUBMIT_RECORDS_MAX`], each durable as
    /// a whole; a full queue refuses the first part and delays the others.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the queue is full or the storage fails. Then parts before the
    /// one that failed may be durable: the message says how many records.
    pub fn submit(&self, records: impl Iterator<Item = Record>) -> Result<AppendReply> {
        let mut sieve = Sieve::new(records);
        let mut total = AppendReply::default();
        let mut is_first = true;
        let mut taken = 0;
        let mut waiting: Option<(Vec<usize>, Receiver<Result<AppendReply>>)> = None;
        loop {
            let (places, part): (Vec<usize>, Vec<Record>) =
                sieve.by_ref().take(SUBMIT_RECORDS_MAX).unzip();
            let last = part.len() < SUBMIT_RECORDS_MAX;
            let (reply_tx, reply_rx) = bounded(1);
            let request = AppendRequest {
                records: part,
                left_out: sieve.take_left_out(),
                room: sieve.room.clone(),
                positions: Vec::new(),
                replayed: Vec::new(),
                reply: reply_tx,
            };
            let queued = if std::mem::take(&mut is_first) {
                self.try_send(Event::Append(request))
            } else {
                self.send(Event::Append(request))
            };
            // While one part is being stored the next one is read.
            if let Some((places, reply)) = waiting.take() {
                taken +=
                    merge(&mut total, &places, &reply).map_err(|error| partly(error, taken))?;
            }
            queued.map_err(|error| partly(error, taken))?;
            waiting = Some((places, reply_rx));
            if last {
                break;
            }
        }
        if let Some((places, reply)) = waiting {
            merge(&mut total, &places, &reply).map_err(|error| partly(error, taken))?;
        }
        sieve.name_left_out(&mut total);
        Ok(total)
    }
}

/// Records that become durable together, at most.
pub const SUBMIT_RECORDS_MAX: usize = 8_192;
/// Refused records that are named one by one in an answer.
pub const REJECTED_NAMED_MAX: usize = 10_000;
/// Refused records of one body, or of one import, that are kept as dead letters. Of those after them
/// only the number is kept: a body of millions must neither hold up the learner nor push out what
/// others sent.
pub const LETTERS_KEPT_MAX: usize = 500;

/// Place for the dead letters of one sender.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// For what is one body, however many parts it is sent in.
    pub fn of_body() -> Self {
        Self(Arc::new(AtomicUsize::new(LETTERS_KEPT_MAX)))
    }

    /// For whoever must keep every one.
    pub fn unlimited() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }

    /// Whether there is place for one more, which then has it.
    pub(super) fn take(&self) -> bool {
        // The learner alone takes.
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

/// How many refused records of a source have no record of their own, by reason.
pub type LeftOut = BTreeMap<(&'static str, &'static str), u64>;

/// Passes records on with their places; of those that can't be understood only as many as may be
/// kept. The others are counted, and cost no more than that.
pub struct Sieve<I> {
    records: std::iter::Enumerate<I>,
    refused: usize,
    left_out: LeftOut,
    named: Vec<(usize, Refusal)>,
    /// For the dead letters among them.
    pub room: Room,
}

impl<I: Iterator<Item = Record>> Sieve<I> {
    /// A sieve for the records of one body.
    pub fn new(records: I) -> Self {
        Self {
            records: records.enumerate(),
            refused: 0,
            left_out: LeftOut::new(),
            named: Vec::new(),
            room: Room::of_body(),
        }
    }

    /// What was left out since this was last called.
    pub fn take_left_out(&mut self) -> LeftOut {
        std::mem::take(&mut self.left_out)
    }

    /// Names the first of those that were left out among those refused.
    pub fn name_left_out(self, total: &mut AppendReply) {
        total.rejected.extend(self.named);
        total.rejected.sort_by_key(|(place, _)| *place);
        total.rejected.truncate(REJECTED_NAMED_MAX);
    }
}

impl<I: Iterator<Item = Record>> Iterator for Sieve<I> {
    type Item = (usize, Record);

    fn next(&mut self) -> Option<(usize, Record)> {
        for (place, record) in self.records.by_ref() {
            // One that is fed back stays where it is.
            let (Err(refusal), None) = (&record.content, &record.replay_of) else {
                return Some((place, record));
            };
            self.refused += 1;
            if self.refused <= LETTERS_KEPT_MAX {
                return Some((place, record));
            }
            *self.left_out.entry((record.source, refusal.code.as_str())).or_default() += 1;
            if self.named.len() < REJECTED_NAMED_MAX {
                self.named.push((place, refusal.clone()));
            }
        }
        None
    }
}

/// Adds a part's reply to the total; returns the number of its records that are dealt with.
fn merge(
    total: &mut AppendReply,
    places: &[usize],
    reply: &Receiver<Result<AppendReply>>,
) -> Result<u64> {
    let part =
        reply.recv().unwrap_or_else(|_| Err(Error::Unavailable("the learner ended".to_owned())))?;
    let dealt_with = part.accepted + part.duplicates + part.rejected_total;
    total.add(part, places);
    Ok(dealt_with)
}

fn partly(error: Error, taken: u64) -> Error {
    match error {
        Error::Unavailable(text) if taken > 0 => Error::Unavailable(format!(
            "{text}; the first {taken} records are stored: sent again, those with an identity \
             count as duplicates"
        )),
        other => other,
    }
}
