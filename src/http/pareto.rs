//! `GET /api/learning/agents/pareto`: who is worth choosing, whatever one wants most.

use super::access::Caller;
use super::answers::{Dominated, Front, ParetoAgent};
use super::predict::evidence;
use super::server::Request;
use super::{Answer, App, Query, json_response};
use crate::learner::Now;
use crate::model::{Measure, Merits, Question, dominators};
use crate::outcome::{Context, format_time};

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
        let model = self.shared.model();
        // All in the order of names.
        let standings = model.standings(&question);
        let [latencies, costs] =
            [Measure::Latency, Measure::Cost].map(|measure| model.predictions(&question, measure));
        let mean = |predicted: &crate::model::Predicted| predicted.value.map(|value| value.mean());
        let merits: Vec<Merits> = standings
            .iter()
            .zip(latencies.iter().zip(&costs))
            .map(|(standing, (latency, cost))| Merits {
                success: standing.expected_success(),
                latency_ms: mean(latency),
                cost: mean(cost),
            })
            .collect();
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
        let dominators = dominators(&merits);
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
