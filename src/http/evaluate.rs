//! `POST /api/learning/evaluate`: what would another policy have earned?

use std::sync::TryLockError;

use super::access::{Need, Scope};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, json_body, json_object, json_response};
use crate::error::Error;
use crate::evaluate::log::{self, Log, Plan, PlanRequest, ReportBody};

pub(super) const EVALUATE: Route = Route {
    method: "POST",
    pattern: "/api/learning/evaluate",
    id: "evaluatePolicy",
    tag: Tag::Reports,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.evaluate(call.request),
    describe: |schemas| {
        Operation::new("What would another policy have earned?")
            .json(schemas.asked::<PlanRequest>())
            .answer(200, "What the recorded decisions say", schemas.answered::<ReportBody>())
    },
};

impl App {
    pub(super) fn evaluate(&self, request: &mut Request<'_>) -> Answer {
        let plan = Plan::of(json_object(json_body(request)?.as_deref())?)?;
        // It reads the whole log: one at a time, so that predictions keep their processors.
        let _alone = match self.evaluating.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let text = "another evaluation is under way: try again later";
                return Err(Error::Unavailable(text.to_owned()).into());
            }
        };
        let model = self.shared.model();
        let log = Log {
            reader: &self.reader,
            learned_sequence: model.sequence(),
            settings: *model.settings(),
            waited_since_ms: self.waited_since(),
        };
        let report = log::evaluate(&plan, &log)?;
        Ok(json_response(200, &report.body()))
    }
}
