//! From the state directory to the model as it was: the newest restart point that can be read,
//! then the journal after it.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::Outcome;
use crate::store::{Counters, Entry, Store, read_model};

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
            Entry::Activation(activation) => {
                let (file, digest) = (&activation.model_file_path, &activation.digest);
                model = read_model(store.directory(), file, digest, sequence, settings)?;
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
        match read_model(store.directory(), file, &point.digest, sequence, settings) {
            Ok(model) => return Ok(model),
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
