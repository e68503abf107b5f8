//! From the state directory to the model as it was: the newest restart point that can be read,
//! then the journal after it.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::Outcome;
use crate::store::{Counters, Entry, Store, learned_sequence, read_model};

/// The model and what it has yet to learn.
pub(super) struct Recovered {
    pub(super) model: AgentPerformanceModel,
    /// Journaled, but in no recorded micro-batch.
    pub(super) pending: VecDeque<Outcome>,
    /// The journal entry up to which the restart point held.
    pub(super) restart_sequence: u64,
}

pub(super) fn recover(store: &Store, counters: &Counters, settings: Settings) -> Result<Recovered> {
    let mut model = restart_model(store, settings)?;
    let restart_sequence = model.sequence();
    let mut pending = VecDeque::new();
    store.replay(restart_sequence, counters.last_sequence, |sequence, entry| {
        match entry {
            Entry::Outcome(outcome) if sequence <= counters.learned_sequence => {
                model.update(&outcome);
            }
            Entry::Outcome(outcome) => pending.push_back(outcome),
            // It took effect with its transaction, and all before it was learned by then.
            Entry::Control(control) => {
                model.apply(&control);
            }
            Entry::Activation(activation) => {
                let (file, digest) = (&activation.model_file_path, &activation.digest);
                model = load(store, file, digest, sequence, settings)?;
            }
        }
        Ok(())
    })?;
    log::info!(
        "model=restored sequence={} from={restart_sequence} to_learn={}",
        model.sequence(),
        pending.len()
    );
    Ok(Recovered { model, pending, restart_sequence })
}

fn restart_model(store: &Store, settings: Settings) -> Result<AgentPerformanceModel> {
    let oldest = store.oldest_sequence()?;
    let mut newest_failure = None;
    for point in store.restart_points()? {
        let (file, sequence) = (&point.model_file_path, point.learned_sequence);
        match load(store, file, &point.digest, sequence, settings) {
            Ok(model) => return Ok(model),
            Err(error @ Error::Unavailable(_)) => return Err(error),
            Err(error) => {
                log::warn!("restart_point={file} skipped error=\"{error}\"");
                newest_failure.get_or_insert(error);
            }
        }
    }
    // Without any, the whole journal tells the same, as long as it is all there.
    match newest_failure {
        Some(error) if oldest.is_some_and(|oldest| oldest > 1) => Err(Error::Corrupt(format!(
            "no saved model can be read and the journal no longer starts at its beginning: {error}"
        ))),
        _ => Ok(AgentPerformanceModel::new(settings)),
    }
}

/// The model of a file, as of journal entry `sequence`. What the strategy needs and the file, saved
/// under another one, does not have is learned from the retained journal; the counts stay.
///
/// # Errors
/// [`Error::Corrupt`] when the file can't be trusted, [`Error::Unavailable`] when the journal can't
/// be read now.
pub fn load(
    store: &Store,
    file: &str,
    digest: &str,
    sequence: u64,
    settings: Settings,
) -> Result<AgentPerformanceModel> {
    let mut model = read_model(store.directory(), file, digest, sequence, settings)?;
    if model.lacks_effects() {
        let until = learned_sequence(store.directory(), file)?;
        model.forget_effects();
        let ranges = counted(store, until)?;
        log::info!("model=relearned file={file} until={until} strategy=thompson");
        retained(store, |sequence, entry| {
            let counts =
                ranges.iter().any(|(after, last)| (*after < sequence) && (sequence <= *last));
            match entry {
                Entry::Outcome(outcome) if counts => model.relearn(&outcome),
                Entry::Control(control) if counts => model.relearn_control(&control),
                _ => {}
            }
        })?;
    }
    Ok(model)
}

/// The stretches of the journal, each (after, last), whose outcomes the state at `until` counts:
/// what came between a version and its activation does not.
fn counted(store: &Store, until: u64) -> Result<Vec<(u64, u64)>> {
    // (sequence, what the activated state had learned)
    let mut activations = Vec::new();
    retained(store, |sequence, entry| {
        if let Entry::Activation(activation) = entry {
            // A file that is gone leaves its activation out: nothing tells what it undid.
            match learned_sequence(store.directory(), &activation.model_file_path) {
                Ok(learned) => activations.push((sequence, learned)),
                Err(error) => log::warn!("activation={sequence} not undone error=\"{error}\""),
            }
        }
    })?;
    let mut ranges = Vec::new();
    let mut last = until;
    while let Some((sequence, learned)) = activations.pop() {
        if sequence <= last {
            ranges.push((sequence, last));
            last = learned;
        }
    }
    ranges.push((0, last));
    ranges.reverse();
    Ok(ranges)
}

/// Hands every entry that the journal still holds to `visit`.
fn retained(store: &Store, mut visit: impl FnMut(u64, Entry)) -> Result<()> {
    let Some(oldest) = store.oldest_sequence()? else { return Ok(()) };
    store.replay(oldest - 1, store.counters()?.last_sequence, |sequence, entry| {
        visit(sequence, entry);
        Ok(())
    })
}
