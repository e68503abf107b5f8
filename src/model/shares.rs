//! Memory that all tenants share: a tenant that has less than an even share always finds room.
//!
//! A little is kept free for such tenants. Once they have taken it, what is full takes from the tenant
//! that holds most: what is known of its agent that was seen least recently, beside the agent's own record,
//! goes back to what is believed of anybody. What belongs to no agent, as the values of a context, and
//! the buffers behind averages stay; a tenant below its share then grows past the cap. All of it depends
//! on outcomes and their order alone.

use std::sync::Arc;

use super::families::COVARIANCE_ENTRY_BYTES;
use super::holding::{Held, Holding};
use super::performance::AgentPerformanceModel;
use super::records::Agent;
use super::settings::Caps;
use super::tenant::Tenant;

impl Caps {
    /// Bytes of values.
    pub(super) fn value_bytes(&self) -> usize {
        self.covariances_mib << 20
    }

    fn holding(&self) -> Holding {
        Holding {
            cells: self.cells,
            recent_values: self.recent_values,
            covariances: (self.covariances_mib << 20) / COVARIANCE_ENTRY_BYTES,
            effects: self.effects,
            value_bytes: self.value_bytes(),
        }
    }
}

impl AgentPerformanceModel {
    /// What all tenants together may hold: what they held when the room was closed, if it is.
    pub(super) fn holding_max(&self) -> Holding {
        let max = self.settings.caps.holding();
        self.closed_at.map_or(max, |closed_at| max.min(&closed_at))
    }

    /// Whether nothing may take more memory than it did when [`Control::CloseRoom`](super::Control) came.
    pub fn is_room_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// How many tenants there may be: while the room is closed no more than there are.
    pub fn tenants_max(&self) -> usize {
        let max = self.settings.caps.tenants;
        if self.is_room_closed() { max.min(self.tenants.len()) } else { max }
    }

    /// The caps that hold for the names of a tenant: while the room is closed it has no more of them than it
    /// has now, and a new one only gets the place of one that gives way.
    pub(super) fn caps_of(&self, tenant: &str) -> Caps {
        let caps = self.settings.caps;
        let Some(tenant) = self.tenants.get(tenant).filter(|_| self.is_room_closed()) else {
            return caps;
        };
        Caps {
            agents_per_tenant: caps.agents_per_tenant.min(tenant.agents.len()),
            task_types_per_tenant: caps.task_types_per_tenant.min(tenant.tasks.len()),
            context_keys_per_tenant: caps.context_keys_per_tenant.min(tenant.context.len()),
            ..caps
        }
    }

    /// An even share of what may be held, and what is kept free for those who have less.
    fn share(&self, held: Held) -> (usize, usize) {
        let max = self.holding_max().get(held);
        match self.tenants.len() {
            0 | 1 => (max, 0),
            // One outcome may take an agent's next row.
            tenants => (max / tenants, (max / 16).min(self.settings.caps.joint_values_per_agent)),
        }
    }

    /// How much a tenant may hold now.
    pub(super) fn room(&self, tenant: &str) -> Holding {
        let max = self.holding_max();
        let own = self.tenants.get(tenant).map(|tenant| tenant.holding).unwrap_or_default();
        let mut room = Holding::default();
        for held in Held::ALL {
            let (share, kept_free) = self.share(held);
            let free = max.get(held).saturating_sub(self.holding.get(held));
            let own = own.get(held);
            *room.get_mut(held) = if own < share {
                (own + free).max(share)
            } else {
                own + free.saturating_sub(kept_free)
            };
        }
        room
    }

    /// Makes room for a tenant with less than an even share of what is full.
    pub(super) fn take_from_those_who_hold_most(&mut self, tenant: &str) {
        let max = self.holding_max();
        for held in Held::ALL {
            let (share, kept_free) = self.share(held);
            while self.holding.get(held) + kept_free > max.get(held) {
                let own = self.tenants.get(tenant).map_or(0, |tenant| tenant.holding.get(held));
                let most = self.tenants.iter().max_by_key(|(_, tenant)| tenant.holding.get(held));
                let Some((name, most)) = most.filter(|(_, most)| most.holding.get(held) > share)
                else {
                    break;
                };
                let agent = if own < share { most.least_recent_with(held) } else { None };
                let Some(agent) = agent else { break };
                let name = name.clone();
                self.forget(&name, &agent, held);
            }
        }
    }

    fn forget(&mut self, tenant: &str, agent: &str, held: Held) {
        self.change(tenant, |tenant| match held {
            Held::Cells => tenant.forget_cells_of(agent),
            // Buffers stay, and values give way by themselves.
            Held::RecentValues | Held::ValueBytes => {}
            Held::Covariances | Held::Effects => tenant.forget_effects_of(agent),
        });
    }
}

impl Tenant {
    /// The agent seen least recently of those that hold any.
    fn least_recent_with(&self, held: Held) -> Option<Arc<str>> {
        let mut agents: Vec<_> = self.agents.iter().collect();
        // Of equals, which only an older state has, the first by name.
        agents.sort_by_key(|(_, agent)| agent.seen);
        let holds = |agent: &Agent| match held {
            Held::Cells => self.tasks.values().any(|task| task.cells.contains_key(&agent.id)),
            Held::RecentValues | Held::ValueBytes => false,
            Held::Covariances | Held::Effects => {
                self.ensemble.as_ref().is_some_and(|all| all.is_held_by(agent.id, held))
            }
        };
        agents.into_iter().find(|(_, agent)| holds(agent)).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Control, Settings};
    use crate::outcome::{Feature, Outcome, Status};

    fn model(caps: Caps) -> AgentPerformanceModel {
        AgentPerformanceModel::new(Settings { caps, ..Settings::default() })
    }

    fn outcome(tenant: &str, agent: u64, task: u64) -> Outcome {
        let outcome = Outcome::new(format!("a{agent}"), Status::Success);
        Outcome { tenant: tenant.to_owned(), ..outcome.on_task(format!("t{task}")) }
    }

    /// One that comes with a context value, twice, so that the value gets its row.
    fn with_value(model: &mut AgentPerformanceModel, tenant: &str, agent: u64, value: u64) {
        let context = vec![("k".to_owned(), Feature::Text(format!("v{value}")))];
        for _ in 0..2 {
            model.update(&Outcome { context: context.clone(), ..outcome(tenant, agent, 0) });
        }
    }

    /// How many (agent, task type) records a tenant has of those that it should have.
    fn cells(model: &AgentPerformanceModel, tenant: &str, agents: u64, tasks: u64) -> usize {
        let tenant = model.tenant(tenant).unwrap();
        let known = |agent: u64, task: u64| {
            let agent = tenant.agent(&format!("a{agent}")).unwrap();
            tenant.cell(agent, &format!("t{task}")).tally.executions > 0
        };
        (0..agents)
            .flat_map(|a| (0..tasks).map(move |t| (a, t)))
            .filter(|(a, t)| known(*a, *t))
            .count()
    }

    #[test]
    fn a_tenant_has_room_for_an_even_share_of_records_whoever_came_first() {
        let mut model = model(Caps { cells: 120, ..Caps::default() });
        for (agent, task) in (0..20).flat_map(|agent| (0..10).map(move |task| (agent, task))) {
            model.update(&outcome("big", agent, task));
        }
        assert_eq!(cells(&model, "big", 20, 10), 120, "alone it has all");
        for (agent, task) in (0..5).flat_map(|agent| (0..10).map(move |task| (agent, task))) {
            model.update(&outcome("small", agent, task));
        }
        assert_eq!(cells(&model, "small", 5, 10), 50);
        assert!(model.cells() <= 120 && cells(&model, "big", 20, 10) >= 60, "{}", model.cells());
        // Who was seen last keeps what it has, and everybody the record that is its own.
        let big = model.tenant("big").unwrap();
        let seen_last = big.agent("a19").unwrap();
        assert_eq!(
            (0..10).filter(|t| big.cell(seen_last, &format!("t{t}")).tally.executions > 0).count(),
            0
        );
        let kept = big.agent("a11").unwrap();
        assert!(big.cell(kept, "t9").tally.executions > 0);
        assert_eq!(big.agent("a0").unwrap().tally.executions, 10);
        // With more than its share it takes from nobody.
        for (agent, task) in (5..20).flat_map(|agent| (0..10).map(move |task| (agent, task))) {
            model.update(&outcome("small", agent, task));
        }
        assert!(cells(&model, "big", 20, 10) >= 50);
    }

    #[test]
    fn a_tenant_has_room_for_rows_and_effects_whoever_came_first() {
        let caps = Caps { covariances_mib: 1, effects: 2_000, ..Caps::default() };
        let mut model = model(caps);
        let max = caps.holding();
        for (agent, value) in (0..8).flat_map(|agent| (0..256).map(move |value| (agent, value))) {
            with_value(&mut model, "big", agent, value);
        }
        for number in 0..4_000 {
            let context = vec![(format!("id{}", number % 200), Feature::Text(format!("{number}")))];
            model.update(&Outcome { context, ..outcome("big", number % 8, 0) });
        }
        assert!(model.holding.covariances + 256 > max.covariances);
        assert!(model.holding.effects + 256 > max.effects);
        for value in 0..100 {
            with_value(&mut model, "small", 0, value);
        }
        let small = model.tenant("small").unwrap();
        assert_eq!((small.joint_values(), small.other().effects), (100, 0));
        assert!(model.holding.covariances <= max.covariances);
        let sum = |held| model.tenants.values().map(|t| t.holding.get(held)).sum::<usize>();
        assert!(Held::ALL.iter().all(|held| sum(*held) == model.holding.get(*held)));
    }

    /// While the room is closed nothing grows, whatever comes, but the buffers that each agent may have.
    #[test]
    fn in_a_closed_room_those_who_are_known_are_learned_and_nobody_takes_more() {
        let mut model = model(Caps::default());
        let with_context = |tenant: &str, agent: u64, number: u64| Outcome {
            latency_ms: Some(5.0),
            context: vec![
                (format!("k{}", number % 3), Feature::Text(format!("v{}", number % 11))),
                ("n".to_owned(), Feature::Number(1.0)),
            ],
            ..outcome(tenant, agent, number % 4)
        };
        for number in 0..400 {
            model.update(&with_context(&format!("t{}", number % 3), number % 7, number));
        }
        model.apply(&Control::CloseRoom);
        let closed_at = model.holding;
        let json = serde_json::to_vec(&model.state()).unwrap();
        let mut again =
            AgentPerformanceModel::from_state(&*json, model.sequence(), Settings::default())
                .unwrap();
        assert!(again.is_room_closed());
        for number in 0..4_000_u64 {
            let tenant = format!("t{}", number % 3);
            let known = with_context(&tenant, number % 7, number);
            let key = (format!("made up {number}"), Feature::Text(format!("made up {number}")));
            let made_up = Outcome {
                context: vec![key.clone()],
                ..outcome(&tenant, 100 + number, 100 + number)
            };
            let partly = Outcome { context: vec![key, known.context[0].clone()], ..known.clone() };
            for outcome in [&known, &made_up, &partly] {
                model.update(outcome);
                again.update(outcome);
            }
        }
        assert_eq!(model.digest(), again.digest());
        for held in [Held::Cells, Held::Covariances, Held::Effects] {
            let (now, then) = (model.holding.get(held), closed_at.get(held));
            assert!(now <= then, "{held:?}: {now}, and {then} when it was closed");
        }
        let buffers_max =
            closed_at.recent_values + 3 * 8 * 3 * crate::model::records::RECENT_VALUES_MIN;
        assert!(model.holding.recent_values <= buffers_max);
        for (_, tenant) in model.tenants() {
            assert_eq!((tenant.agents().len(), tenant.task_types().len()), (7, 4));
            assert_eq!(tenant.context_keys().len(), 2);
            assert!(tenant.other().agent.tally.executions > 1_300);
            assert!(tenant.agents().all(|(_, agent)| agent.tally.executions > 350));
        }
        assert!(model.used().any(|used| used.cap == "agents_per_tenant" && used.used == used.max));
        // Opened, it takes new names again.
        model.apply(&Control::OpenRoom);
        model.update(&outcome("t0", 9_999, 0));
        assert!(model.tenant("t0").unwrap().agent("a9999").is_some());
    }

    /// A tenant below its share that needs nothing more takes nothing.
    #[test]
    fn nobody_loses_what_is_not_needed() {
        let mut model = model(Caps { cells: 64, effects: 64, ..Caps::default() });
        for round in 0..3 {
            for (agent, value) in (0..10).flat_map(|agent| (0..30).map(move |value| (agent, value)))
            {
                with_value(&mut model, "big", agent, value);
                model.update(&outcome("big", agent, value % 9));
            }
            if round == 0 {
                model.update(&outcome("small", 0, 0));
            }
        }
        let of_big = |model: &AgentPerformanceModel| {
            serde_json::to_value(model.state()).unwrap()["tenants"]["big"].clone()
        };
        let before = of_big(&model);
        for _ in 0..500 {
            model.update(&outcome("small", 0, 0));
        }
        assert_eq!(of_big(&model), before);
    }

    /// A saved model goes on as the one that it was saved from, with everything full.
    #[test]
    fn who_loses_what_is_the_same_after_a_restart() {
        let caps = Caps {
            cells: 150,
            effects: 200,
            covariances_mib: 0,
            recent_values: 300,
            agents_per_tenant: 12,
            ..Caps::default()
        };
        for covariances_mib in [0, 1] {
            let caps = Caps { covariances_mib, ..caps };
            let settings = Settings { caps, ..Settings::default() };
            let mut model = model(caps);
            let mut restored: Option<AgentPerformanceModel> = None;
            let mut state = 7_u64;
            for step in 0..4_000_u64 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let part = |shift: u64, count: u64| (state >> shift) % count;
                // The tenants come one after the other.
                let tenant = part(20, 1 + step / 800);
                let value = Feature::Text(format!("v{}", part(28, 40)));
                let outcome = Outcome {
                    status: Status::ALL[usize::try_from(part(36, 6)).unwrap()],
                    latency_ms: Some(1.0 + f64::from(u32::try_from(part(40, 100)).unwrap())),
                    quality: Some(0.5),
                    context: vec![(format!("k{}", part(44, 3)), value)],
                    ..outcome(&format!("tenant{tenant}"), part(48, 15), part(56, 9))
                };
                model.update(&outcome);
                if let Some(restored) = &mut restored {
                    restored.update(&outcome);
                }
                if step % 400 == 399 {
                    if let Some(restored) = &restored {
                        assert_eq!(model.digest(), restored.digest(), "after {step}");
                    }
                    let json = serde_json::to_vec(&model.state()).unwrap();
                    let again =
                        AgentPerformanceModel::from_state(&*json, model.sequence(), settings)
                            .unwrap();
                    assert_eq!(again.holding, model.holding, "after {step}");
                    restored = Some(again);
                }
            }
        }
    }
}
