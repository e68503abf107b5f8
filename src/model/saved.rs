//! The learned state as canonical JSON: the same bytes for the same state, whatever ids the names
//! were given and however the stream was cut. Saved files hold it; the digest is its SHA-256.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::canonical::MapRef;
use super::ensemble::Ensemble;
use super::families::{LogisticState, Member, Taken};
use super::holding::Holding;
use super::names::Waiting;
use super::performance::AgentPerformanceModel;
use super::records::{Agent, Cell, ContextKey, Other, SCORE_WINDOW, Score, Tally, Task, next_id};
use super::settings::Settings;
use super::tenant::Tenant;
use super::values;
use super::values::{RecordsRef, RecordsState, SumsState};
use crate::error::{Error, Result};
use crate::outcome::hex;

impl AgentPerformanceModel {
    /// SHA-256 of the canonical learned state, in hexadecimal.
    pub fn digest(&self) -> String {
        struct Hash(Sha256);
        impl Write for Hash {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = io::BufWriter::with_capacity(64 * 1024, Hash(Sha256::new()));
        let written = serde_json::to_writer(&mut writer, &self.state()).is_ok();
        match writer.into_inner() {
            Ok(hash) if written => hex(&hash.0.finalize()),
            _ => unreachable!("hashing in memory can't fail"),
        }
    }

    /// The canonical learned state, to be serialised.
    pub fn state(&self) -> impl Serialize + '_ {
        StateRef(self)
    }

    /// The model of a saved state, as learned up to journal entry `sequence`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the JSON is no learned state.
    pub fn from_state(json: impl Read, sequence: u64, settings: Settings) -> Result<Self> {
        let state: State = serde_json::from_reader(json)
            .map_err(|error| Error::Corrupt(format!("this is no learned state: {error}")))?;
        let mut model = Self::new(settings);
        model.sequence = sequence;
        model.total = state.total;
        model.closed_at = state.closed_at;
        model.score = Arc::new(Score { rewards: state.rewards.into() });
        let is_alone = state.tenants.len() == 1;
        for (name, mut tenant) in state.tenants {
            if let Some(rewards) = tenant.rewards_missing.then(|| &model.score.rewards) {
                // Files of before tenants had scores of their own.
                let rewards =
                    if is_alone { rewards.clone() } else { recent_rewards(&tenant.tenant) };
                tenant.tenant.score = Arc::new(Score { rewards });
            }
            model.holding.add(&tenant.tenant.holding);
            let mut tenant = tenant.tenant;
            if let Some(ensemble) = &mut tenant.ensemble {
                ensemble.settle(&settings);
            }
            model.tenants.insert(name.into(), Arc::new(tenant));
        }
        if !model.unlearned.learns() {
            model.drop_effects();
        }
        Ok(model)
    }
}

/// What [`StateRef`] writes.
#[derive(Deserialize)]
struct State {
    total: Tally,
    /// Only while the room is closed.
    closed_at: Option<Holding>,
    rewards: Vec<f64>,
    tenants: BTreeMap<String, Restored>,
}

/// A tenant, put together as soon as it is read.
struct Restored {
    tenant: Tenant,
    rewards_missing: bool,
}

impl<'de> Deserialize<'de> for Restored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        TenantState::deserialize(deserializer)?.restore().map_err(D::Error::custom)
    }
}

/// What is left of a tenant's last rewards in the buffers of its agents.
fn recent_rewards(tenant: &Tenant) -> VecDeque<f64> {
    let rewards = tenant.agents.values().flat_map(|agent| agent.rewards.iter());
    rewards.take(SCORE_WINDOW).collect()
}

#[derive(Deserialize)]
struct TenantState {
    total: Tally,
    rewards: Option<Vec<f64>>,
    agents: BTreeMap<String, Agent>,
    tasks: BTreeMap<String, Tally>,
    /// In their order, when there was the last outcome on each; not in files of before that was known.
    #[serde(default)]
    tasks_seen: Vec<u64>,
    #[serde(default)]
    waiting_agents: Waiting,
    #[serde(default)]
    waiting_tasks: Waiting,
    /// (place of the task type, place of the agent, executions, learned, reward, latencies,
    /// latency sum), places by name.
    cells: Vec<(u32, u32, u64, u64, f64, u64, f64)>,
    context: BTreeMap<String, ContextKey>,
    other: Other,
    /// With the strategy `thompson`.
    effects: Option<LogisticState>,
    /// Not in files of before there were any.
    records: Option<RecordsState>,
    /// What stood in its place.
    values: Option<SumsState>,
}

impl TenantState {
    fn restore(self) -> Result<Restored> {
        let mut cells = 0;
        let agents = self.agents.len();
        let rewards_missing = self.rewards.is_none();
        let rewards = self.rewards.unwrap_or_default().into();
        let mut tenant = Tenant {
            total: self.total,
            score: Arc::new(Score { rewards }),
            other: self.other,
            waiting_agents: self.waiting_agents,
            waiting_tasks: self.waiting_tasks,
            ..Tenant::default()
        };
        let now = self.total.executions;
        Arc::make_mut(&mut tenant.other.agent).seen = tenant.other.agent.seen.min(now);
        for (place, (name, agent)) in self.agents.into_iter().enumerate() {
            let agent = Agent { id: next_id(place), seen: agent.seen.min(now), ..agent };
            tenant.agents.insert(name.into(), Arc::new(agent));
        }
        let mut restored: Vec<(String, Task)> = self
            .tasks
            .into_iter()
            .zip(self.tasks_seen.into_iter().chain(std::iter::repeat(now)))
            .map(|((name, tally), seen)| {
                (name, Task { tally, seen: seen.min(now), ..Task::default() })
            })
            .collect();
        for (task, agent, executions, learned, reward, latencies, latency_sum_ms) in self.cells {
            let (Some((_, task)), true) =
                (restored.get_mut(task as usize), (agent as usize) < agents)
            else {
                return Err(Error::Corrupt(format!(
                    "the record of agent {agent} on task type {task} names one that is not there"
                )));
            };
            let tally = Tally { executions, learned, reward };
            task.cells.insert(agent, Cell { tally, latencies, latency_sum_ms });
            cells += 1;
        }
        for (name, task) in restored {
            tenant.tasks.insert(name.into(), task);
        }
        for (name, key) in self.context {
            cells += key.values.len();
            tenant.context.insert(name.into(), Arc::new(key));
        }
        let agents = tenant.agents.values().chain([&tenant.other.agent]);
        let recent_values = agents.map(|agent| agent.recent_values()).sum();
        let effects = Member::restore(self.effects, tenant.names(), Member::Logistic)?;
        tenant.ensemble = Ensemble::restored(effects.into_iter().collect())?;
        match (self.records, self.values) {
            (Some(records), _) => give_values(&mut tenant, records.restore()?)?,
            (None, Some(sums)) => give_values(&mut tenant, sums.restore()?)?,
            (None, None) => {}
        }
        let taken = tenant.ensemble.as_ref().map(Ensemble::taken);
        let Taken { covariances, effects } = taken.unwrap_or_default();
        let value_bytes = tenant.values.bytes();
        tenant.holding = Holding { cells, recent_values, covariances, effects, value_bytes };
        Ok(Restored { tenant, rewards_missing })
    }
}

/// Gives a restored tenant its values back.
fn give_values(tenant: &mut Tenant, (values, owns): values::Restored) -> Result<()> {
    tenant.values = values;
    for (name, own) in owns {
        let agent = tenant
            .agents
            .get_mut(&*name)
            .ok_or_else(|| Error::Corrupt("values are of an agent that is not there".to_owned()))?;
        Arc::make_mut(agent).values = Some(own);
    }
    Ok(())
}

struct StateRef<'a>(&'a AgentPerformanceModel);

impl Serialize for StateRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut state = serializer.serialize_struct("State", 4)?;
        state.serialize_field("total", &self.0.total)?;
        if let Some(closed_at) = &self.0.closed_at {
            state.serialize_field("closed_at", closed_at)?;
        }
        state.serialize_field("rewards", &self.0.score.rewards)?;
        state.serialize_field("tenants", &TenantsRef(self.0))?;
        state.end()
    }
}

struct TenantsRef<'a>(&'a AgentPerformanceModel);

impl Serialize for TenantsRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer
            .collect_map(self.0.tenants.iter().map(|(name, tenant)| (&**name, TenantRef(tenant))))
    }
}

struct TenantRef<'a>(&'a Tenant);

impl Serialize for TenantRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Tenant { agents, tasks, context, total, score, other, ensemble, values, .. } = self.0;
        let mut state = serializer.serialize_struct("Tenant", 12)?;
        state.serialize_field("total", total)?;
        state.serialize_field("rewards", &score.rewards)?;
        state.serialize_field("agents", &MapRef(|| agents.iter().map(|(n, a)| (&**n, &**a))))?;
        state.serialize_field("tasks", &MapRef(|| tasks.iter().map(|(n, t)| (&**n, t.tally))))?;
        let tasks_seen: Vec<u64> = tasks.values().map(|task| task.seen).collect();
        state.serialize_field("tasks_seen", &tasks_seen)?;
        state.serialize_field("waiting_agents", &self.0.waiting_agents)?;
        state.serialize_field("waiting_tasks", &self.0.waiting_tasks)?;
        state.serialize_field("cells", &CellsRef(self.0))?;
        state.serialize_field("context", &MapRef(|| context.iter().map(|(n, k)| (&**n, &**k))))?;
        state.serialize_field("other", other)?;
        match ensemble {
            Some(ensemble) => ensemble.save(&mut state, self.0.names())?,
            None => state.serialize_field("effects", &())?,
        }
        let owns = || agents.iter().filter_map(|(n, a)| Some((&**n, a.values.as_deref()?)));
        state.serialize_field("records", &RecordsRef(values, owns))?;
        state.end()
    }
}

struct CellsRef<'a>(&'a Tenant);

impl Serialize for CellsRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let tenant = self.0;
        let agent_id_to_place = tenant.names().agent_id_to_place();
        let cells = tenant.tasks.values().map(|task| task.cells.len()).sum();
        let mut rows = serializer.serialize_seq(Some(cells))?;
        let mut row: Vec<(u32, Cell)> = Vec::new();
        for (place, task) in tenant.tasks.values().enumerate() {
            row.clear();
            row.extend(
                task.cells.iter().map(|(agent, cell)| (agent_id_to_place[*agent as usize], *cell)),
            );
            row.sort_unstable_by_key(|(agent, _)| *agent);
            for (agent, Cell { tally, latencies, latency_sum_ms }) in &row {
                let Tally { executions, learned, reward } = tally;
                let place = next_id(place);
                rows.serialize_element(&(
                    place,
                    agent,
                    executions,
                    learned,
                    reward,
                    latencies,
                    latency_sum_ms,
                ))?;
            }
        }
        rows.end()
    }
}
