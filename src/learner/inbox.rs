//! The door into the learner: a bounded queue, and what its senders wait for.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{AppendReply, AppendRequest, Event, Record};
use crate::error::{Error, Result};

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
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone().ok_or_else(|| Error::Unavailable("the service is stopping".to_owned()))
    }

    /// Lets go of the learner: it ends when it has taken what was sent.
    pub fn close(&self) {
        self.slot.write().unwrap_or_else(PoisonError::into_inner).take();
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
        let mut records = records.peekable();
        let mut total = AppendReply::default();
        let mut sent = 0;
        let mut taken = 0;
        let mut waiting: Option<(usize, Receiver<Result<AppendReply>>)> = None;
        loop {
            let part: Vec<Record> = records.by_ref().take(SUBMIT_RECORDS_MAX).collect();
            let (size, last) = (part.len(), records.peek().is_none());
            let (reply_tx, reply_rx) = bounded(1);
            let request = AppendRequest {
                records: part,
                positions: Vec::new(),
                replayed: Vec::new(),
                reply: reply_tx,
            };
            let queued = match sent {
                0 => self.try_send(Event::Append(request)),
                _ => self.send(Event::Append(request)),
            };
            // While one part is being stored the next one is read.
            if let Some((first, reply)) = waiting.take() {
                taken += merge(&mut total, first, &reply).map_err(|error| partly(error, taken))?;
            }
            queued.map_err(|error| partly(error, taken))?;
            waiting = Some((sent, reply_rx));
            sent += size;
            if last {
                break;
            }
        }
        if let Some((first, reply)) = waiting {
            merge(&mut total, first, &reply).map_err(|error| partly(error, taken))?;
        }
        Ok(total)
    }
}

/// Records that become durable together, at most.
pub const SUBMIT_RECORDS_MAX: usize = 8_192;
/// Refused records that are named one by one in an answer.
pub const REJECTED_NAMED_MAX: usize = 10_000;

/// Adds a part's reply to the total; returns the number of its records that are dealt with.
fn merge(
    total: &mut AppendReply,
    first: usize,
    reply: &Receiver<Result<AppendReply>>,
) -> Result<u64> {
    let part =
        reply.recv().unwrap_or_else(|_| Err(Error::Unavailable("the learner ended".to_owned())))?;
    total.accepted += part.accepted;
    total.duplicates += part.duplicates;
    total.rejected_total += part.rejected_total;
    for (field, count) in &part.dropped {
        *total.dropped.entry(*field).or_default() += count;
    }
    let dealt_with = part.accepted + part.duplicates + part.rejected_total;
    let room = REJECTED_NAMED_MAX.saturating_sub(total.rejected.len());
    let named = part.rejected.into_iter().take(room);
    total.rejected.extend(named.map(|(index, refusal)| (first + index, refusal)));
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
