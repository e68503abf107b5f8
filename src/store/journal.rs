//! The journal: every outcome in the order in which it was accepted, and the identities by which a
//! record that comes again is known.
//!
//! One row holds all outcomes of one transaction, packed and checksummed; a row each would cost
//! twenty times as much. Their identities, and what tells whether an event that comes again has the
//! same content, stand in a column before the payload, so that the window of known identities is
//! rebuilt at start without reading the outcomes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Counters, DeadLetter, NewDeadLetter, Store, StoreOptions, commit,
    events::{LearningEvent, insert_events},
    execute, from_sql, query, to_sql, write,
};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::decisions::Waiting;
use crate::outcome::{ContentKey, IdentityKey, Outcome};

const KIND_OUTCOMES: i64 = 1;
const KIND_ACTIVATION: i64 = 2;
const KIND_CONTROL: i64 = 3;
/// Of the payload of a control entry.
const CONTROL_VERSION: u32 = 1;
/// Largest payload of a control entry, bytes: a decision with the largest context fits.
const CONTROL_BYTES_MAX: usize = 1024 * 1024;
/// Old rows are looked for whenever the sequence passes a multiple of this.
const PRUNE_EVERY: u64 = 1_024;
/// Rows deleted in one go: more than are written in between, few enough that no append waits long.
const PRUNED_ROWS_MAX: u64 = 2 * PRUNE_EVERY;

/// How far a source has been read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Where from.
    pub topic: Arc<str>,
    /// Which part of it.
    pub partition: i32,
    /// The first offset that has not been taken.
    pub next_offset: i64,
    /// Which topic of that name; empty when the broker gave no id.
    pub topic_id: Arc<str>,
    /// How often it was set back to another log, by an operator.
    pub resets: u64,
    /// Records that were gone before they were read, ever.
    pub lost: u64,
    /// The last record's own time, Unix ms; 0 before the first.
    pub last_record_ms: i64,
}

/// What one transaction makes durable.
#[derive(Debug, Default)]
pub struct Append<'a> {
    /// New outcomes, in the order in which they will be learned.
    pub outcomes: &'a [Outcome],
    /// Records that were refused.
    pub dead_letters: &'a [NewDeadLetter],
    /// Dead letters that were fed back with success.
    pub replayed: &'a [String],
    /// How far the sources have been read.
    pub positions: &'a [Position],
    /// Answered selections, in order. What is joined with outcomes are these and earlier ones.
    pub decisions: &'a [Waiting],
    /// Outcomes that came after their decision was given up, as they came.
    pub late: &'a [super::Late],
    /// Outcomes that are not final, as they came.
    pub provisional: &'a [super::Provisional],
    /// Outcomes that wait for a verdict, as they came.
    pub unjudged: &'a [super::Unjudged],
    /// Telemetry of executions whose outcome was reported otherwise.
    pub taken: &'a [super::Taken],
    /// Verdicts that wait no longer, by their numbers.
    pub judged: &'a [u64],
}

/// One entry of the journal.
#[derive(Debug)]
pub enum Entry {
    /// Learn it.
    Outcome(Outcome),
    /// Go on from a saved version's state.
    Activation(Activation),
    /// Do what it says.
    Control(Control),
}

/// The payload of a control entry. The version comes before what it is the version of.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackedControl<C> {
    version: u32,
    control: C,
}

fn pack_control(control: &Control) -> Result<Vec<u8>> {
    let payload = serde_json::to_vec(&PackedControl { version: CONTROL_VERSION, control })
        .map_err(|error| Error::Fatal(format!("a control entry can't be packed: {error}")))?;
    if payload.len() > CONTROL_BYTES_MAX {
        let (kind, bytes) = (control.kind(), payload.len());
        return Err(Error::invalid(
            "",
            format!("a {kind} entry has {bytes} bytes, allowed are {CONTROL_BYTES_MAX}"),
        ));
    }
    Ok(payload)
}

/// The error is a text: why it can't be read.
fn unpack_control(payload: &[u8]) -> std::result::Result<Control, String> {
    const NEWER: &str = "a newer online-learning may have written it; use that program";
    let packed: PackedControl<serde_json::Value> =
        serde_json::from_slice(payload).map_err(|error| format!("{error}; {NEWER}"))?;
    if packed.version != CONTROL_VERSION {
        let version = packed.version;
        return Err(format!(
            "control entries of version {version}, this program knows {CONTROL_VERSION}; {NEWER}"
        ));
    }
    serde_json::from_value(packed.control).map_err(|error| format!("{error}; {NEWER}"))
}

/// The journal's record of an activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The version that was activated.
    pub version_id: String,
    /// Its file, in the state directory.
    pub model_file_path: String,
    /// Digest of its state.
    pub digest: String,
}

/// Before version 10 of the schema the column of identities held nothing else.
pub(super) const CONTENTS_SCHEMA: &str = "";

/// The column of identities: those of all outcomes of a row, then what tells their contents.
fn pack_identities(outcomes: &[Outcome]) -> Vec<u8> {
    let identities = outcomes.iter().flat_map(|outcome| outcome.identity);
    identities.chain(outcomes.iter().flat_map(|outcome| outcome.content)).collect()
}

/// The identities of a row of `count` entries with their contents, which old rows don't have.
fn unpack_identities(
    column: &[u8],
    count: usize,
) -> impl DoubleEndedIterator<Item = (IdentityKey, ContentKey)> {
    let (identities, contents) = column.split_at(column.len().min(16 * count));
    let contents = contents.as_chunks::<2>().0;
    let identities = identities.as_chunks::<16>().0.iter().enumerate();
    identities
        .map(|(place, identity)| (*identity, contents.get(place).copied().unwrap_or_default()))
}

/// An identity in the window. Without alignment it shares its place with the content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(IdentityKey);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_le_bytes(self.0));
    }
}

/// The identities of the last outcomes, a fixed number of them.
pub(super) struct IdentityWindow {
    known: HashMap<Key, ContentKey>,
    order: VecDeque<Key>,
    capacity: usize,
    /// The entries of the newest of them, for verdicts that come later.
    entries: HashMap<Key, u64>,
}

/// Executions that a verdict finds by their identity.
const EXECUTIONS_MAX: usize = 100_000;

impl IdentityWindow {
    pub(super) fn load(connection: &Connection, capacity: usize) -> Result<Self> {
        let mut window = Self {
            known: HashMap::new(),
            order: VecDeque::new(),
            capacity,
            entries: HashMap::new(),
        };
        // Newest first until the window is full, then in order.
        let mut newest_first: Vec<(IdentityKey, ContentKey, u64)> = Vec::new();
        let mut statement = connection
            .prepare(
                "SELECT identities, first_sequence, last_sequence FROM journal
                 ORDER BY first_sequence DESC",
            )
            .map_err(|error| super::reaction(&error))?;
        let mut rows = statement.query([]).map_err(|error| super::reaction(&error))?;
        while newest_first.len() < capacity {
            let Some(row) = rows.next().map_err(|error| super::reaction(&error))? else { break };
            let column: Vec<u8> = row.get(0).map_err(|error| super::reaction(&error))?;
            let first = row.get(1).map_err(|error| super::reaction(&error))?;
            let last = row.get(2).map_err(|error| super::reaction(&error))?;
            let (first, last) = (from_sql(first), from_sql(last));
            let count = usize::try_from(last + 1 - first).unwrap_or(0);
            let wanted = capacity - newest_first.len();
            let keys = unpack_identities(&column, count).rev().take(wanted);
            let entries = (first..=last).rev();
            newest_first.extend(
                keys.zip(entries).map(|((identity, content), entry)| (identity, content, entry)),
            );
        }
        window.known.reserve(newest_first.len());
        window.order.reserve(newest_first.len());
        for (identity, content, entry) in newest_first.into_iter().rev() {
            window.remember(identity, content, entry);
        }
        Ok(window)
    }

    fn remember(&mut self, identity: IdentityKey, content: ContentKey, entry: u64) {
        let key = Key(identity);
        if self.capacity > 0 && !self.known.contains_key(&key) {
            if self.order.len() == self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
                self.entries.remove(&oldest);
            }
            self.known.insert(key, content);
            self.order.push_back(key);
            self.entries.insert(key, entry);
            let oldest = self.order.len().checked_sub(EXECUTIONS_MAX + 1);
            if let Some(oldest) = oldest.and_then(|place| self.order.get(place)) {
                self.entries.remove(oldest);
            }
        }
    }
}

impl Store {
    /// Whether this identity is among those remembered.
    pub fn is_known(&self, identity: IdentityKey) -> bool {
        self.known_content(identity).is_some()
    }

    /// The content with which this identity is remembered, if it is.
    pub fn known_content(&self, identity: IdentityKey) -> Option<ContentKey> {
        self.identities.known.get(&Key(identity)).copied()
    }

    /// Makes a group of records durable in one transaction, with `counters` as they are after it.
    /// The caller has sorted out duplicates; how many decisions found their outcome is added here.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn append(
        &mut self,
        append: &Append<'_>,
        counters: &mut Counters,
        now_ms: i64,
    ) -> Result<()> {
        let options = self.options;
        let mut attempts = None;
        let transaction = write(&self.connection, &self.patience)?;
        let mut decisions = self.decisions.begin(&transaction)?;
        let mut early_outcomes = self.early_outcomes.begin(&transaction)?;
        let mut dead_letters = self.dead_letters.begin(&transaction)?;
        let joined = super::decisions::insert(
            &transaction,
            append.decisions,
            counters.last_decision,
            &mut decisions,
            &mut early_outcomes,
        )?;
        counters.decisions_with_outcome += joined;
        if !append.outcomes.is_empty() {
            let identities = pack_identities(append.outcomes);
            let payload = postcard::to_stdvec(append.outcomes)
                .map_err(|error| Error::Fatal(format!("outcomes can't be packed: {error}")))?;
            let row = Row {
                first_sequence: counters.last_sequence + 1 - append.outcomes.len() as u64,
                last_sequence: counters.last_sequence,
                kind: KIND_OUTCOMES,
                identities,
                payload,
            };
            row.insert(&transaction, now_ms)?;
            prune(&transaction, &row, counters, &options, now_ms)?;
            let first_sequence = row.first_sequence;
            let joined = super::decisions::join(
                &transaction,
                append.outcomes,
                first_sequence,
                &mut early_outcomes,
            )?;
            counters.decisions_with_outcome += joined;
            super::decisions::keep_late(&transaction, append.late, first_sequence)?;
            attempts = super::attempts::note(
                &transaction,
                append.outcomes,
                append.provisional,
                self.attempts,
                now_ms,
            )?;
        }
        super::decisions::take_all(&transaction, append.taken)?;
        super::feedback::await_verdicts(&transaction, append.unjudged)?;
        let judged = super::feedback::forget(&transaction, append.judged)?;
        super::dead_letters::insert(
            &transaction,
            append.dead_letters,
            counters.last_dead_letter - append.dead_letters.len() as u64,
            &mut dead_letters,
        )?;
        super::dead_letters::remove(&transaction, append.replayed, &mut dead_letters)?;
        for position in append.positions {
            execute(
                &transaction,
                "INSERT OR REPLACE INTO source_positions(topic, partition, next_offset, topic_id,
                                                         resets, lost, last_record_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    &*position.topic,
                    position.partition,
                    position.next_offset,
                    &*position.topic_id,
                    to_sql(position.resets),
                    to_sql(position.lost),
                    position.last_record_ms
                ],
            )?;
        }
        counters.store(&transaction)?;
        commit(transaction, &self.place)?;
        let first_sequence = counters.last_sequence + 1 - append.outcomes.len() as u64;
        for (sequence, outcome) in (first_sequence..).zip(append.outcomes) {
            self.identities.remember(outcome.identity, outcome.content, sequence);
            if let Some(index) = &mut self.by_decision {
                index.note(outcome, sequence);
            }
        }
        self.attempts = attempts.unwrap_or(self.attempts);
        self.unjudged += append.unjudged.len() as u64;
        self.waiting.remove(judged);
        self.has_spans |= !append.taken.is_empty()
            || append.outcomes.iter().any(|of| of.trace.is_some() && of.decision.is_some());
        self.decisions.keep(decisions);
        self.early_outcomes.keep(early_outcomes);
        self.dead_letters.keep(dead_letters);
        Ok(())
    }

    /// Records an activation: its journal entry, the new version that it makes, its learning
    /// event, and the counters after it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and nothing has changed.
    pub fn activate(
        &mut self,
        activation: &Activation,
        versions: &[super::ModelVersion],
        event: LearningEvent,
        counters: &Counters,
        now_ms: i64,
    ) -> Result<()> {
        let options = self.options;
        let transaction = write(&self.connection, &self.patience)?;
        let payload = serde_json::to_vec(activation)
            .map_err(|error| Error::Fatal(format!("an activation can't be packed: {error}")))?;
        let row = Row {
            first_sequence: counters.last_sequence,
            last_sequence: counters.last_sequence,
            kind: KIND_ACTIVATION,
            identities: Vec::new(),
            payload,
        };
        row.insert(&transaction, now_ms)?;
        super::versions::forget_announced(&transaction, versions)?;
        super::versions::insert(&transaction, versions)?;
        let before = super::versions::files(&transaction)?;
        super::versions::promote(&transaction, versions)?;
        super::versions::archive(&transaction, options.versions_max)?;
        let unused = super::versions::unused_files(&transaction, before)?;
        insert_events(&transaction, &[event], &options)?;
        counters.store(&transaction)?;
        commit(transaction, &self.place)?;
        self.delete_files(&unused);
        Ok(())
    }

    /// Records control entries, the newest of them with the last sequence of `counters`, with their
    /// learning event and the counters after it. How many decisions found their outcome is added here.
    ///
    /// # Errors
    /// [`Error::Invalid`] when one is too large, [`Error::Unavailable`] when it can be tried again;
    /// nothing has changed then.
    pub fn control(
        &mut self,
        controls: &[Control],
        event: LearningEvent,
        counters: &mut Counters,
        now_ms: i64,
    ) -> Result<()> {
        let options = self.options;
        let transaction = write(&self.connection, &self.patience)?;
        let mut early_outcomes = self.early_outcomes.begin(&transaction)?;
        let first_sequence = counters.last_sequence + 1 - controls.len() as u64;
        for (sequence, control) in (first_sequence..).zip(controls) {
            let row = Row {
                first_sequence: sequence,
                last_sequence: sequence,
                kind: KIND_CONTROL,
                identities: Vec::new(),
                payload: pack_control(control)?,
            };
            row.insert(&transaction, now_ms)?;
            prune(&transaction, &row, counters, &options, now_ms)?;
        }
        super::decisions::give_up(&transaction, controls, first_sequence, now_ms)?;
        let (joined, attempts) =
            super::attempts::settle(&transaction, controls, first_sequence, &mut early_outcomes)?;
        counters.decisions_with_outcome += joined;
        counters.decisions_with_outcome +=
            super::feedback::note(&transaction, controls, first_sequence, &mut early_outcomes)?;
        let unjudged = super::feedback::unjudged(&transaction)?;
        insert_events(&transaction, &[event], &options)?;
        counters.store(&transaction)?;
        commit(transaction, &self.place)?;
        self.attempts = attempts.unwrap_or(self.attempts);
        self.unjudged = unjudged;
        if let Some(index) = &mut self.by_decision {
            for (sequence, control) in (first_sequence..).zip(controls) {
                if let Control::LastAttempt { outcome, .. } = control {
                    index.note(outcome, sequence);
                }
            }
        }
        self.early_outcomes.keep(early_outcomes);
        Ok(())
    }

    /// Hands the journal entries after `sequence`, up to `last_sequence`, to `visit`, in order and
    /// each with its own sequence.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when an entry is missing or damaged; what `visit` returns.
    pub fn replay(
        &self,
        sequence: u64,
        last_sequence: u64,
        mut visit: impl FnMut(u64, Entry) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self
            .connection
            .prepare(
                "SELECT first_sequence, last_sequence, kind, identities, payload, checksum
                 FROM journal WHERE last_sequence > ?1 ORDER BY first_sequence",
            )
            .map_err(|error| super::reaction(&error))?;
        let mut rows =
            statement.query([to_sql(sequence)]).map_err(|error| super::reaction(&error))?;
        let mut expected = sequence + 1;
        while let Some(row) = rows.next().map_err(|error| super::reaction(&error))? {
            let (row, checksum) = Row::read(row).map_err(|error| super::reaction(&error))?;
            if row.first_sequence > expected || row.checksum()[..] != checksum[..] {
                break;
            }
            for (position, entry) in (row.first_sequence..).zip(row.entries()?) {
                if position == expected {
                    visit(position, entry)?;
                    expected += 1;
                }
            }
        }
        if expected == last_sequence + 1 {
            return Ok(());
        }
        Err(Error::Corrupt(format!(
            "the journal in {} is damaged: entry {expected} of {last_sequence} is missing or \
             fails its checksum; {}",
            self.directory.display(),
            super::evidence::GO_ON
        )))
    }

    /// The entry of an outcome by its identity, if it is one of the newest.
    pub(super) fn sequence_of(&self, identity: IdentityKey) -> Option<u64> {
        self.identities.entries.get(&Key(identity)).copied()
    }

    /// The entries with these sequences, as far as they are still there. Each row is read once.
    pub(super) fn entries(
        &self,
        sequences: impl IntoIterator<Item = u64>,
    ) -> Result<HashMap<u64, Entry>> {
        let sequences: BTreeSet<u64> = sequences.into_iter().collect();
        let mut wanted = sequences.into_iter().peekable();
        let mut found = HashMap::new();
        while let Some(sequence) = wanted.peek().copied() {
            let rows = query(
                &self.connection,
                "SELECT first_sequence, last_sequence, kind, identities, payload, checksum
                 FROM journal WHERE first_sequence <= ?1 ORDER BY first_sequence DESC LIMIT 1",
                [to_sql(sequence)],
                Row::read,
            )?;
            if let Some((row, _)) = rows.into_iter().next().filter(|(row, _)| row.has(sequence)) {
                for (sequence, entry) in (row.first_sequence..).zip(row.entries()?) {
                    if wanted.next_if_eq(&sequence).is_some() {
                        found.insert(sequence, entry);
                    }
                }
            }
            // It has left.
            wanted.next_if_eq(&sequence);
        }
        Ok(found)
    }

    /// Sequence number of the oldest entry still there; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn oldest_sequence(&self) -> Result<Option<u64>> {
        let oldest: Vec<Option<i64>> =
            query(&self.connection, "SELECT min(first_sequence) FROM journal", [], |row| {
                row.get(0)
            })?;
        Ok(oldest.into_iter().flatten().next().map(from_sql))
    }

    /// How far the sources have been read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn positions(&self) -> Result<Vec<Position>> {
        positions(&self.connection)
    }

    /// A dead letter by id, payload included.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>> {
        super::dead_letters::by_id(&self.connection, id)
    }
}

pub(super) fn positions(connection: &Connection) -> Result<Vec<Position>> {
    query(
        connection,
        "SELECT topic, partition, next_offset, topic_id, resets, lost, last_record_ms
         FROM source_positions ORDER BY topic, partition",
        [],
        |row| {
            Ok(Position {
                topic: row.get::<_, String>(0)?.into(),
                partition: row.get(1)?,
                next_offset: row.get(2)?,
                topic_id: row.get::<_, String>(3)?.into(),
                resets: from_sql(row.get(4)?),
                lost: from_sql(row.get(5)?),
                last_record_ms: row.get(6)?,
            })
        },
    )
}

/// Hands entries to `visit`, the newest first, until it has seen enough or one can't be read.
pub(super) fn newest_first(
    connection: &Connection,
    mut visit: impl FnMut(u64, Entry) -> bool,
) -> Result<()> {
    let mut statement = connection
        .prepare(
            "SELECT first_sequence, last_sequence, kind, identities, payload, checksum
             FROM journal ORDER BY first_sequence DESC",
        )
        .map_err(|error| super::reaction(&error))?;
    let mut rows = statement.query([]).map_err(|error| super::reaction(&error))?;
    while let Some(row) = rows.next().map_err(|error| super::reaction(&error))? {
        let (row, _) = Row::read(row).map_err(|error| super::reaction(&error))?;
        let Ok(entries) = row.entries() else { break };
        for (sequence, entry) in
            (row.first_sequence..=row.last_sequence).rev().zip(entries.into_iter().rev())
        {
            if !visit(sequence, entry) {
                return Ok(());
            }
        }
    }
    Ok(())
}

pub(super) struct Row {
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    pub(super) kind: i64,
    pub(super) identities: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Row {
    pub(super) fn checksum(&self) -> [u8; 16] {
        let mut hasher = Sha256::new();
        hasher.update(self.first_sequence.to_le_bytes());
        hasher.update(self.last_sequence.to_le_bytes());
        hasher.update(self.kind.to_le_bytes());
        hasher.update(&self.identities);
        hasher.update(&self.payload);
        let mut checksum = [0; 16];
        checksum.copy_from_slice(&hasher.finalize()[..16]);
        checksum
    }

    fn insert(&self, connection: &Connection, now_ms: i64) -> Result<()> {
        execute(
            connection,
            "INSERT INTO journal(first_sequence, last_sequence, kind, created_ms, identities,
                                 payload, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                to_sql(self.first_sequence),
                to_sql(self.last_sequence),
                self.kind,
                now_ms,
                self.identities,
                self.payload,
                self.checksum()
            ],
        )?;
        Ok(())
    }

    fn has(&self, sequence: u64) -> bool {
        (self.first_sequence..=self.last_sequence).contains(&sequence)
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Self, Vec<u8>)> {
        let read = Self {
            first_sequence: from_sql(row.get(0)?),
            last_sequence: from_sql(row.get(1)?),
            kind: row.get(2)?,
            identities: row.get(3)?,
            payload: row.get(4)?,
        };
        Ok((read, row.get(5)?))
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let unreadable = |error: &dyn std::fmt::Display| {
            let Self { first_sequence, last_sequence, .. } = self;
            Error::Corrupt(format!(
                "journal entries {first_sequence} to {last_sequence} can't be read: {error}"
            ))
        };
        match self.kind {
            KIND_OUTCOMES => {
                let mut outcomes: Vec<Outcome> =
                    postcard::from_bytes(&self.payload).map_err(|error| unreadable(&error))?;
                let keys = unpack_identities(&self.identities, outcomes.len());
                for (outcome, (identity, content)) in outcomes.iter_mut().zip(keys) {
                    (outcome.identity, outcome.content) = (identity, content);
                }
                Ok(outcomes.into_iter().map(Entry::Outcome).collect())
            }
            KIND_ACTIVATION => serde_json::from_slice(&self.payload)
                .map(|activation| vec![Entry::Activation(activation)])
                .map_err(|error| unreadable(&error)),
            KIND_CONTROL => unpack_control(&self.payload)
                .map(|control| vec![Entry::Control(control)])
                .map_err(|error| unreadable(&error)),
            kind => Err(unreadable(&format!("unknown kind {kind}"))),
        }
    }
}

/// Deletes old rows, a few at a time, sparing what is not learned, what a restart needs and the
/// remembered identities.
fn prune(
    connection: &Connection,
    newest: &Row,
    counters: &Counters,
    options: &StoreOptions,
    now_ms: i64,
) -> Result<()> {
    if (newest.first_sequence - 1) / PRUNE_EVERY == newest.last_sequence / PRUNE_EVERY {
        return Ok(());
    }
    let spared_after = [
        counters.learned_sequence,
        super::versions::older_restart_sequence(connection)?,
        // Activations, each of which made a version, and control entries have sequence numbers but
        // no identities.
        newest.last_sequence.saturating_sub(
            options.identities_max as u64 + counters.last_version_number + counters.controls,
        ),
    ]
    .into_iter()
    .min()
    .unwrap_or(0);
    let kept_by_count = newest.last_sequence.saturating_sub(options.journal_outcomes_max);
    execute(
        connection,
        "DELETE FROM journal WHERE first_sequence IN
             (SELECT first_sequence FROM journal ORDER BY first_sequence LIMIT ?1)
         AND last_sequence <= ?2 AND (last_sequence <= ?3 OR created_ms < ?4)",
        params![
            to_sql(PRUNED_ROWS_MAX),
            to_sql(spared_after),
            to_sql(kept_by_count),
            now_ms - options.journal_age_max_ms
        ],
    )?;
    Ok(())
}
