//! `verify`: is the model what the journal says? Learns the journal again from the oldest version
//! that can be trusted to lead to the present, and compares digests on the way and at the end.

use std::collections::VecDeque;
use std::io::Write;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::{MODEL_TYPES, load_model, parameters, restored};
use crate::model::{AgentPerformanceModel, Settings};
use crate::store::{Counters, Entry, ModelVersion, Store, VersionStatus};

/// What a run compared.
struct Verified {
    /// Where it began.
    from: String,
    /// Journal entries learned again.
    entries: u64,
    /// Versions whose digest was compared.
    versions: usize,
}

/// Verifies the configured directory, beside a running service or without one.
///
/// # Errors
/// [`Error::Corrupt`] naming the first version that differs, [`Error::NotFound`] when no version or
/// beginning is left to start from.
pub fn verify(config: &Config, out: &mut impl Write) -> Result<()> {
    let settings = config.learner.settings;
    let store = Store::open_read_only(&config.storage_path, config.store)?;
    // A service that runs beside us goes on.
    let store = store.as_of_now()?;
    let counters = store.counters()?;
    let starts = starts(&store, settings)?;
    for (place, start) in starts.iter().enumerate() {
        let later = starts[place + 1..].iter().flatten().cloned().collect();
        let Some((model, verified)) = follow(&store, start.as_ref(), later, &counters, settings)?
        else {
            continue;
        };
        let present = restored(&store, settings)?;
        let (rebuilt, present) = (model.digest(), present.digest());
        if rebuilt != present {
            return Err(Error::Corrupt(format!(
                "from {} the journal gives a model with the digest {rebuilt}, a restart one with \
                 {present}",
                verified.from
            )));
        }
        let Verified { from, entries, versions } = verified;
        return writeln!(
            out,
            "verified=yes from={from} entries={entries} sequence={} versions={versions} \
             digest={rebuilt}",
            counters.learned_sequence
        )
        .map_err(Error::unprinted);
    }
    Err(Error::NotFound(
        "there is nothing to begin with: neither the journal's beginning nor a version of the \
         present settings and format with the whole journal after it"
            .to_owned(),
    ))
}

/// Where to begin, the best first: the beginning (`None`), and the versions from which on nothing but
/// the present settings and format was used, oldest first.
fn starts(store: &Store, settings: Settings) -> Result<Vec<Option<ModelVersion>>> {
    let versions = store.all_versions(MODEL_TYPES[0])?;
    let present = parameters(&settings);
    let other = versions.iter().rposition(|version| version.parameters != present);
    let oldest = store.oldest_sequence()?;
    let mut starts = Vec::new();
    // An empty journal that never held anything begins at its beginning, too.
    if other.is_none() && oldest.unwrap_or(1) == 1 {
        starts.push(None);
    }
    let usable = versions.into_iter().skip(other.map_or(0, |place| place + 1)).filter(|version| {
        matches!(version.status, VersionStatus::Active | VersionStatus::Deprecated)
            && version.digest.is_some()
            && oldest.is_some_and(|oldest| oldest <= version.learned_sequence + 1)
    });
    starts.extend(usable.map(Some));
    Ok(starts)
}

/// Learns the journal from `start` on and compares each version in `later` as it comes by; `None` when
/// this start does not lead to the present, because a file is gone or has another format.
fn follow(
    store: &Store,
    start: Option<&ModelVersion>,
    mut later: VecDeque<ModelVersion>,
    counters: &Counters,
    settings: Settings,
) -> Result<Option<(AgentPerformanceModel, Verified)>> {
    let (mut model, from) = match start {
        None => (AgentPerformanceModel::new(settings), "beginning".to_owned()),
        Some(version) => {
            let digest = version.digest.as_deref().unwrap_or_default();
            let (file, sequence) = (&version.model_file_path, version.learned_sequence);
            match load_model(store, file, digest, sequence, settings) {
                Ok(model) => (model, version.id.clone()),
                Err(error @ Error::Unavailable(_)) => return Err(error),
                Err(error) => {
                    log::warn!("verify=skipped version={} error=\"{error}\"", version.id);
                    return Ok(None);
                }
            }
        }
    };
    let first = model.sequence();
    let mut compared = 0;
    let mut gone = None;
    let replayed = store.replay(first, counters.last_sequence, |sequence, entry| {
        if sequence > counters.learned_sequence {
            return Ok(());
        }
        let mut activated = false;
        match entry {
            Entry::Outcome(outcome) => model.update(&outcome),
            Entry::Control(control) => {
                model.apply(&control);
            }
            Entry::Activation(activation) => {
                activated = true;
                let (file, digest) = (&activation.model_file_path, &activation.digest);
                model =
                    load_model(store, file, digest, sequence, settings).inspect_err(|error| {
                        gone = Some(error.to_string());
                    })?;
            }
        }
        while later.front().is_some_and(|version| version.learned_sequence <= sequence) {
            let Some(version) = later.pop_front() else { break };
            // That of an activation is the file itself, whose digest was checked as it was loaded.
            if version.learned_sequence < sequence || activated {
                continue;
            }
            let (rebuilt, saved) = (model.digest(), version.digest.unwrap_or_default());
            if rebuilt != saved {
                return Err(Error::Corrupt(format!(
                    "from {from} the journal gives a model with the digest {rebuilt} at entry \
                     {sequence}, the version {} was saved with {saved}",
                    version.id
                )));
            }
            compared += 1;
        }
        Ok(())
    });
    if let Some(why) = gone {
        log::warn!("verify=skipped from={from} error=\"{why}\"");
        return Ok(None);
    }
    replayed?;
    let entries = counters.learned_sequence - first;
    Ok(Some((model, Verified { from, entries, versions: compared })))
}
