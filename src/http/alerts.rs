//! `GET /api/learning/alerts`: what fires and what did.

use serde_json::Value;

use super::server::Request;
use super::{Answer, App, Query, page};
use crate::alerts::Alert;
use crate::error::Error;

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
        let alerts: Vec<Value> = alerts.iter().map(Alert::json).collect();
        Ok(page("alerts", alerts, limit, |last| last["id"].clone()))
    }
}
