//! `GET /api/learning/agents/pareto`: who is worth choosing, whatever one wants most.

use super::access::{Caller, Need, Scope};
use super::answers::{Dominated, Front, ParetoAgent};
use super::operation::Operation;
use super::predict::evidence;
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, Query, json_response};
use crate::learner::Now;
use crate::model::{
    AgentPerformanceModel, Measure, Merits, Predicted, Question, Standing, dominators,
};
use crate::outcome::fields::Name;
use crate::outcome::{Context, format_time};

/// All agents that a question allows, in the order of their names, and who beats whom.
pub(super) struct Compared {
    pub(super) standings: Vec<Standing>,
    pub(super) latencies: Vec<Predicted>,
    pub(super) costs: Vec<Predicted>,
    merits: Vec<Merits>,
    /// For each the place of one that beats it and is beaten by none.
    pub(super) dominators: Vec<Option<usize>>,
}

impl Compared {
    pub(super) fn of(model: &AgentPerformanceModel, question: &Question<'_>) -> Self {
        let standings = model.standings(question);
        let latencies = model.predictions(question, Measure::Latency, &[0.95]);
        let costs = model.predictions(question, Measure::Cost, &[]);
        let mean = |predicted: &Predicted| predicted.value.map(|value| value.mean());
        let merits: Vec<Merits> = standings
            .iter()
            .zip(latencies.iter().zip(&costs))
            .map(|(standing, (latency, cost))| Merits {
                success: standing.expected_success(),
                latency_ms: mean(latency),
                cost: mean(cost),
            })
            .collect();
        let compared: Vec<Merits> = merits.iter().map(in_three_digits).collect();
        let dominators = dominators(&compared);
        Self { standings, latencies, costs, merits, dominators }
    }
}

/// Beliefs of agents that did the same differ a little by how often they did it: nobody is better
/// than another by what is not seen in three digits.
fn in_three_digits(merits: &Merits) -> Merits {
    let rounded = |value: f64| format!("{value:.2e}").parse().unwrap_or(value);
    Merits {
        success: rounded(merits.success),
        latency_ms: merits.latency_ms.map(rounded),
        cost: merits.cost.map(rounded),
    }
}

pub(super) const PARETO: Route = Route {
    method: "GET",
    pattern: "/api/learning/agents/pareto",
    id: "listParetoFront",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.pareto(call.request, call.caller),
    describe: |schemas| {
        let answer = schemas.answered::<Front<'_>>();
        Operation::new("Which agents no other one beats in success, latency and cost at once?")
            .query("task_type", "On this task type", schemas.asked::<Name>())
            .tenant(schemas)
            .answer(200, "Every agent, in two lists", answer)
    },
};

impl App {
    pub(super) fn pareto(&self, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let question = Question {
            tenant: query.tenant(caller)?,
            task_type: query.name("task_type")?,
            context: &Context::new(),
            candidates: None,
            exclude: &[],
        };
        let Compared { standings, merits, dominators, .. } =
            Compared::of(&self.shared.model(), &question);
        let agent = |place: usize| ParetoAgent {
            agent_name: &standings[place].agent,
            success: merits[place].success,
            latency_ms: merits[place].latency_ms,
            cost: merits[place].cost,
            samples: standings[place].samples,
            evidence: evidence(standings[place].evidence),
        };
        let mut best_first: Vec<usize> = (0..merits.len()).collect();
        best_first.sort_by(|a, b| merits[*b].success.total_cmp(&merits[*a].success));
        let mut body = Front {
            pareto: Vec::new(),
            dominated: Vec::new(),
            timestamp: format_time(Now::read().unix_ms),
        };
        for place in best_first {
            match dominators[place] {
                None => body.pareto.push(agent(place)),
                Some(by) => body
                    .dominated
                    .push(Dominated { agent: agent(place), dominated_by: &standings[by].agent }),
            }
        }
        Ok(json_response(200, &body))
    }
}
