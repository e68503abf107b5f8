//! The decisions that were recorded, and what came of them.

use serde_json::{Map, Value, json};

use super::access::Caller;
use super::server::Request;
use super::{Answer, App, Query, json_response, page};
use crate::error::{Error, Result};
use crate::model::Question;
use crate::store::RecordedDecision;

impl App {
    pub(super) fn decisions(&self, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let (tenant, limit) = (query.tenant(caller)?, query.limit()?);
        let before = match query.name("before")? {
            None => None,
            Some(id) => Some(self.known_decision(tenant, id)?.0.number),
        };
        let decisions = self.reader.decisions(tenant, before, limit + 1)?;
        let decisions = decisions.iter().map(RecordedDecision::to_json).collect();
        Ok(page("decisions", decisions, limit, |last: &Value| last["decision_id"].clone()))
    }

    pub(super) fn decision(&self, id: &str, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let (decision, answer) = self.known_decision(query.tenant(caller)?, id)?;
        let mut body = decision.to_json();
        body["answer"] = serde_json::from_str(&answer).unwrap_or(Value::Null);
        body["explain"] = self.explain(&decision);
        Ok(json_response(200, &body))
    }

    fn known_decision(&self, tenant: &str, id: &str) -> Result<(RecordedDecision, String)> {
        self.reader.decision(tenant, id)?.ok_or_else(|| {
            Error::NotFound(format!("there is no decision {id:?} of tenant {tenant:?}"))
        })
    }

    /// What the model says of those who competed, now: the snapshot that answered is gone. What it
    /// said then of expected success, propensity and evidence is in the record and in the answer.
    fn explain(&self, decision: &RecordedDecision) -> Value {
        let model = self.shared.model();
        let question = Question {
            tenant: &decision.tenant,
            task_type: decision.task_type.as_deref(),
            context: &decision.context,
            candidates: None,
            exclude: &[],
        };
        let agents: Map<String, Value> = decision
            .candidates
            .iter()
            .map(|candidate| {
                let explanation = model.explain(&question, &candidate.agent);
                (candidate.agent.clone(), json!(explanation))
            })
            .collect();
        json!({"model_version": model.sequence(), "agents": agents})
    }
}
