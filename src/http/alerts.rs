//! `GET /api/learning/alerts`: what fires and what did.

use super::access::{Need, Scope};
use super::operation::{Operation, number_as_id};
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, Query, answers, json_response, page};
use crate::error::Error;
use crate::watch::alerts::Alert;
use serde_json::json;

pub(super) const ALERTS: Route = Route {
    method: "GET",
    pattern: "/api/learning/alerts",
    id: "listAlerts",
    tag: Tag::Operations,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.alerts(call.request),
    describe: |schemas| {
        Operation::new("What fires and what did, newest first")
            .query(
                "status",
                "Only these",
                json!({"type": "string", "enum": ["firing", "resolved"]}),
            )
            .page("Only alerts older than this one", number_as_id())
            .answer(200, "A page", schemas.answered::<answers::Alerts>())
    },
};

impl App {
    pub(super) fn alerts(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let limit = query.limit()?;
        let firing = match query.get("status") {
            None => None,
            Some("firing") => Some(true),
            Some("resolved") => Some(false),
            Some(other) => {
                let text = format!("is {other:?}, allowed are firing and resolved");
                return Err(Error::invalid("status", text).into());
            }
        };
        let alerts = self.board.list(firing, query.before()?, limit as usize + 1);
        let alerts = alerts.iter().map(Alert::body).collect();
        let (alerts, next_before) = page(alerts, limit, |last| last.id.clone());
        Ok(json_response(200, &answers::Alerts { alerts, next_before }))
    }
}
