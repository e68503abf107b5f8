//! The decisions that were recorded, and what came of them.

use crate::outcome::fields::Name;
use serde_json::{Value, json};

use super::access::{Caller, Need, Scope};
use super::answers::{DecisionBody, ExplainedDecision, ExplainedLimits, ExplainedNow};
use super::lists::{Row, listed};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, Query, answers, json_response};
use crate::error::{Error, Result};
use crate::model::Question;
use crate::store::RecordedDecision;

pub(super) const LIST: Route = Route {
    method: "GET",
    pattern: "/api/learning/decisions",
    id: "listDecisions",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.decisions(call.request, call.caller),
    describe: |schemas| {
        Operation::new("The recorded decisions of a tenant, newest first")
            .tenant(schemas)
            .page("Only decisions before this one", json!(schemas.asked::<Name>()))
            .answer(200, "A page", schemas.answered::<answers::Decisions>())
            .problem(404)
    },
};

pub(super) const ONE: Route = Route {
    method: "GET",
    pattern: "/api/learning/decisions/{id}",
    id: "getDecision",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.decision(&call.names[0], call.request, call.caller),
    describe: |schemas| {
        // The list has it, too; here so that it has a name of its own.
        schemas.answered::<DecisionBody>();
        Operation::new("A recorded decision, its answer, and what the model says of it now")
            .tenant(schemas)
            .answer(200, "The decision", schemas.answered::<ExplainedDecision<'_>>())
    },
};

impl App {
    pub(super) fn decisions(&self, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let (tenant, limit) = (query.tenant(caller)?, query.limit()?);
        let before = match query.name("before")? {
            None => None,
            Some(id) => Some(self.known_decision(tenant, id)?.0.number),
        };
        let (reader, tenant, caller) = (self.reader.clone(), tenant.to_owned(), caller.clone());
        listed("decisions", limit, before, move |before, limit| {
            let decisions = reader.decisions(&tenant, before, limit)?;
            let row = |decision: RecordedDecision| Row {
                number: decision.number,
                id: decision.id.clone(),
                body: shown(decision, &caller),
            };
            Ok(decisions.into_iter().map(row).collect())
        })
    }

    pub(super) fn decision(&self, id: &str, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let (decision, answer) = self.known_decision(query.tenant(caller)?, id)?;
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
        // It was given to somebody who may see all tenants.
        if caller.tenant().is_some() && answer["model_version"] == decision.model_version {
            answer.as_object_mut().and_then(|answer| answer.remove("model_version"));
        }
        let body = ExplainedDecision {
            explain: self.explain(&decision, &answer, caller),
            answer: answer.clone(),
            decision: shown(decision.clone(), caller),
        };
        Ok(json_response(200, &body))
    }

    fn known_decision(&self, tenant: &str, id: &str) -> Result<(RecordedDecision, String)> {
        self.reader.decision(tenant, id)?.ok_or_else(|| {
            Error::NotFound(format!("there is no decision {id:?} of tenant {tenant:?}"))
        })
    }

    /// What the model says of those who competed, now: the snapshot that answered is gone. What it
    /// said then of expected success, propensity and evidence is in the record and in the answer, and
    /// so are parts and limits.
    fn explain<'d>(
        &self,
        decision: &'d RecordedDecision,
        answer: &'d Value,
        caller: &Caller,
    ) -> ExplainedNow<'d> {
        let model = self.shared.model();
        let question = Question {
            tenant: &decision.tenant,
            task_type: decision.task_type.as_deref(),
            context: &decision.context,
            candidates: None,
            exclude: &[],
        };
        let agents = decision.candidates.iter().map(|candidate| {
            let name = candidate.agent.as_str();
            (name, model.explain(&question, name))
        });
        let recommended = answer["recommendations"].as_array().into_iter().flatten();
        let parts = recommended
            .filter_map(|row| Some((row["agent_name"].as_str()?, row.get("parts")?)))
            .collect();
        let limits = answer.get("constraints").map(|constraints| ExplainedLimits {
            constraints,
            on_infeasible: &answer["on_infeasible"],
            feasible: &answer["feasible"],
            excluded: &answer["excluded"],
        });
        let model_version = caller.version_of(&model);
        ExplainedNow { model_version, agents: agents.collect(), parts, limits }
    }
}

fn shown(decision: RecordedDecision, caller: &Caller) -> DecisionBody {
    let body = DecisionBody::from(decision);
    if caller.tenant().is_some() { body.of_tenant() } else { body }
}
