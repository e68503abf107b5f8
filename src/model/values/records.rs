//! What is kept of the values of agents and tenants, and what is forgotten when memory is short.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::effects::{Contexts, EFFECT_BYTES, Effects, agent_tag, tag, task_id};
use super::measure::Measure;
use super::window::{ENTRY_BYTES, Entry, Growth, WINDOW, WINDOW_MIN, Window};
use crate::model::small_map::SmallMap;
use crate::outcome::Outcome;

/// Values of somebody from which on their median is what others are compared with.
const CENTRE_MIN: u64 = 3;
/// Deviations beyond which a value surprises no more.
const FAR: f64 = 4.0;
/// Values that the noise goes back, and as how many its prior counts.
const NOISE_MEMORY: f64 = 2_000.0;
const NOISE_WEIGHT: f64 = 4.0;
/// Share of a tenant's cells that give way at once, so that looking for them costs little.
const EVICTED_SHARE: usize = 8;

/// Values of one measure, of somebody.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "RecordState", into = "RecordState")]
pub(in crate::model) struct Record {
    /// All that came, those that were cut short included.
    pub(super) count: u64,
    /// Median of the window on the scale of the measure, without what the context added; as it was at
    /// `centred` values.
    pub(super) centre: f64,
    pub(super) centred: u64,
    pub(super) window: Window,
}

/// A record in a saved state.
#[derive(Serialize, Deserialize)]
struct RecordState(u64, u64, f64, Window);

impl From<Record> for RecordState {
    fn from(Record { count, centre, centred, window }: Record) -> Self {
        Self(count, centred, centre, window)
    }
}

impl From<RecordState> for Record {
    fn from(RecordState(count, centred, centre, window): RecordState) -> Self {
        // What was centred was there.
        Self { count, centre, centred: centred.min(count), window }
    }
}

impl Record {
    fn learn(&mut self, entry: Entry, measure: Measure, may_grow: bool) -> usize {
        self.count += 1;
        let grown = self.window.push(entry, WINDOW, may_grow);
        // Each time a quarter of the window is new.
        if 4 * (self.count - self.centred) >= self.window.len() as u64 {
            self.centred = self.count;
            let alone = |entry: Entry| {
                let scaled = measure.scaled(entry.value.abs())?;
                Some(scaled - f64::from(entry.offset))
            };
            let mut values: Vec<f64> = self.window.iter().filter_map(alone).collect();
            if !values.is_empty() {
                let middle = values.len() / 2;
                self.centre = *values.select_nth_unstable_by(middle, f64::total_cmp).1;
            }
        }
        grown
    }
}

/// An agent's values on one task type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::model) struct Cell {
    /// When it was met last, as the tenant counts.
    pub(super) used: u64,
    /// By [`Measure`].
    pub(super) records: [Option<Box<Record>>; 3],
}

const CELL_BYTES: usize = size_of::<u64>() + size_of::<Arc<Cell>>() + size_of::<Cell>();
const OWN_BYTES: usize = size_of::<Own>();

impl Cell {
    pub(super) fn bytes(&self) -> usize {
        let record = |record: &Record| size_of::<Record>() + record.window.bytes();
        CELL_BYTES + self.records.iter().flatten().map(|r| record(r)).sum::<usize>()
    }
}

/// An agent's values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Own {
    /// By [`Measure`], on all task types, by which the values are tagged.
    pub(super) records: [Record; 3],
    /// By the id of the task type.
    pub(super) cells: SmallMap<u64, Arc<Cell>>,
    /// Beside the tenant's.
    pub(super) effects: Effects,
    /// Bytes of the cells.
    pub(super) cell_bytes: usize,
}

impl Own {
    pub(super) fn bytes(&self) -> usize {
        let windows = self.records.iter().map(|record| record.window.bytes()).sum::<usize>();
        OWN_BYTES + windows + self.effects.len() * EFFECT_BYTES + self.cell_bytes
    }

    /// Of this there is no more to be had.
    fn is_least(&self) -> bool {
        self.cells.is_empty()
            && self.effects.is_empty()
            && self.records.iter().all(|record| record.window.len() <= WINDOW_MIN)
    }

    fn halve(&mut self) {
        self.effects.clear();
        for record in &mut self.records {
            record.window.halve();
        }
    }
}

/// Mean squared surprise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Noise {
    weight: f64,
    squares: f64,
}

impl Noise {
    fn add(&mut self, square: f64) {
        if self.weight >= NOISE_MEMORY {
            self.weight *= 0.5;
            self.squares *= 0.5;
        }
        self.weight += 1.0;
        self.squares += square;
    }

    fn variance(&self, prior: f64) -> f64 {
        (NOISE_WEIGHT * prior + self.squares) / (NOISE_WEIGHT + self.weight)
    }
}

/// All values of a tenant of one measure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::model) struct Pool {
    /// Tagged by the agent.
    pub(super) record: Record,
    /// Within an agent and a task type, and within an agent.
    pub(super) noise: [Noise; 2],
}

/// What a tenant's agents have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Values {
    /// Outcomes that said something of a measure.
    pub(super) now: u64,
    pub(super) contexts: Contexts,
    pub(super) pools: [Option<Arc<Pool>>; 3],
    /// Held by the agents.
    pub(super) own_bytes: usize,
    /// Cells of all agents, and how many gave way.
    pub(super) cells: usize,
    pub(super) evicted: u64,
}

impl Values {
    /// Memory of the tenant's values.
    pub(in crate::model) fn bytes(&self) -> usize {
        let pools = self.pools.iter().flatten();
        let pools = pools.map(|pool| size_of::<Pool>() + pool.record.window.bytes()).sum::<usize>();
        pools + self.contexts.bytes() + self.own_bytes
    }

    /// (agent, task type) records of values, and how many gave way for lack of memory.
    pub(in crate::model) fn cells(&self) -> (usize, u64) {
        (self.cells, self.evicted)
    }

    /// Learns what an outcome of an agent says of each measure. Where `growth` is not allowed, windows stay as
    /// long as they are, but for the shortest.
    pub(in crate::model) fn learn(
        &mut self,
        outcome: &Outcome,
        own: &mut Option<Arc<Own>>,
        growth: Growth,
    ) {
        let observed = Measure::ALL.map(|measure| measure.observed(outcome));
        if observed.iter().all(Option::is_none) {
            return;
        }
        self.now += 1;
        let now = self.now;
        let task = outcome.task_type.as_deref().map(task_id);
        let agent = agent_tag(&outcome.agent);
        self.own_bytes -= own.as_ref().map_or(0, |own| own.bytes());
        let own = Arc::make_mut(own.get_or_insert_default());
        let context = &outcome.context;
        let mut learning = self.contexts.observe(&own.effects, context, task, now, growth);
        let task_tag = task.map_or(0, tag);
        if let Some(task) = task
            && !own.cells.contains_key(&task)
        {
            let cell = own.remembered(task_tag);
            own.cell_bytes += cell.bytes();
            own.cells.insert(task, Arc::new(cell));
            self.cells += 1;
        }
        let mut cell = task.and_then(|task| own.cells.get_mut(&task)).map(Arc::make_mut);
        if let Some(cell) = &mut cell {
            cell.used = now;
        }
        for (measure, value) in Measure::ALL.into_iter().zip(observed) {
            let Some(value) = value else { continue };
            let at = measure as usize;
            let pool = Arc::make_mut(self.pools[at].get_or_insert_default());
            let whole = &mut own.records[at];
            let part = cell.as_mut().map(|cell| {
                let is_new = cell.records[at].is_none();
                own.cell_bytes += usize::from(is_new) * size_of::<Record>();
                cell.records[at].get_or_insert_default()
            });
            // One that was cut short, or nothing at all, says little of what the context adds.
            if let Some(scaled) = measure.scaled(value) {
                let group = part.as_ref().map_or(&*whole, |part| part);
                if group.count >= CENTRE_MIN {
                    let noise = pool.noise[0].variance(measure.prior_noise());
                    let far = FAR * noise.sqrt();
                    let [tenant, beside, _] = learning.offsets(at);
                    let surprise = (scaled - tenant - beside - group.centre).clamp(-far, far);
                    pool.noise[0].add(surprise * surprise);
                    learning.context(at, surprise, noise);
                }
                if task.is_some() && whole.count >= CENTRE_MIN {
                    let noise = pool.noise[1].variance(measure.prior_noise());
                    let far = FAR * noise.sqrt();
                    let expected = learning.offsets(at).iter().sum::<f64>() + whole.centre;
                    let surprise = (scaled - expected).clamp(-far, far);
                    pool.noise[1].add(surprise * surprise);
                    learning.task(at, surprise, noise);
                }
            }
            let [tenant, beside, of_task] = learning.offsets(at);
            #[expect(clippy::cast_possible_truncation, reason = "effects are not that exact")]
            let entry = |offset: f64, tag| Entry { value, offset: offset as f32, tag };
            if let Some(part) = part {
                own.cell_bytes += part.learn(entry(tenant + beside, 0), measure, growth.values);
            }
            whole.learn(entry(tenant + beside + of_task, task_tag), measure, growth.values);
            pool.record.learn(entry(tenant + of_task, agent), measure, true);
        }
        self.contexts.keep(learning, &mut own.effects, now, growth);
        self.own_bytes += own.bytes();
    }

    /// An agent is removed. Its values among the last of the tenant stay until newer ones have come.
    pub(in crate::model) fn forget(&mut self, own: &Own) {
        self.own_bytes -= own.bytes();
        self.cells -= own.cells.len();
    }

    /// The median of the tenant's last values. `None` before the first, and while nobody has paid
    /// anything: no amount can be measured by that.
    pub(in crate::model) fn usual(&self, measure: Measure) -> Option<f64> {
        let pool = self.pools[measure as usize].as_ref()?;
        let mut values: Vec<f64> =
            pool.record.window.iter().map(|entry| entry.value.abs()).collect();
        if measure != Measure::Quality {
            // Where more than half is free, it is the median of what is not.
            let paid: Vec<f64> = values.iter().copied().filter(|value| *value > 0.0).collect();
            if 2 * paid.len() <= values.len() {
                values = paid;
            }
        }
        let middle = values.len() / 2;
        (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
    }
}

/// What agents give back of their values when there is too little memory.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) enum GivenBack {
    /// The cells that have learned nothing since then: the eighth of all that has learned nothing for longest.
    Cells(u64),
    /// Half of every window, where there are no cells.
    Windows,
}

impl GivenBack {
    /// By what all agents have.
    pub(in crate::model) fn of<'a>(owns: impl Iterator<Item = &'a Own>) -> Self {
        let used = |own: &Own| own.cells.values().map(|cell| cell.used).collect::<Vec<u64>>();
        let mut times: Vec<u64> = owns.flat_map(used).collect();
        // One outcome has one cell: no two were met at the same time.
        match times.len().div_ceil(EVICTED_SHARE) {
            0 => Self::Windows,
            count => Self::Cells(*times.select_nth_unstable(count - 1).1),
        }
    }

    /// Whether an agent has any of it.
    pub(in crate::model) fn is_held_by(self, own: &Own) -> bool {
        match self {
            Self::Cells(last) => own.cells.values().any(|cell| cell.used <= last),
            Self::Windows => !own.is_least(),
        }
    }
}

impl Values {
    /// Whether so many agents have memory that they can give back.
    pub(in crate::model) fn has_spare(&self, agents: usize) -> bool {
        let least = agents * (OWN_BYTES + 3 * WINDOW_MIN * ENTRY_BYTES);
        self.cells > 0 || self.own_bytes > least
    }

    /// Takes it from an agent.
    pub(in crate::model) fn take_back(&mut self, own: &mut Own, given: GivenBack) {
        self.own_bytes -= own.bytes();
        match given {
            GivenBack::Windows => own.halve(),
            GivenBack::Cells(last) => {
                let old = own.cells.iter().filter(|(_, cell)| cell.used <= last);
                let old: Vec<u64> = old.map(|(task, _)| *task).collect();
                for task in old {
                    own.cell_bytes -= own.cells.remove(&task).map_or(0, |cell| cell.bytes());
                    self.cells -= 1;
                    self.evicted += 1;
                }
            }
        }
        self.own_bytes += own.bytes();
    }
}

impl Own {
    /// A new cell with those of the agent's last values that are of it: it had one that gave way.
    fn remembered(&self, task: u32) -> Cell {
        let mut cell = Cell::default();
        for (record, own) in cell.records.iter_mut().zip(&self.records) {
            if !own.window.has(task) {
                continue;
            }
            let of_task = own.window.iter().filter(|entry| entry.tag == task);
            // What the task type added to these is not known any more.
            let entries = of_task.map(|entry| Entry { offset: 0.0, tag: 0, ..entry });
            let window = Window::from_entries(entries);
            let count = window.len() as u64;
            *record = Some(Box::new(Record { count, window, ..Record::default() }));
        }
        cell
    }
}
