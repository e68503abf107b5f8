//! Lists of what is stored: learning events and dead letters.

use serde_json::{Value, json};

use super::server::Request;
use super::{Answer, App, Query, page};
use crate::error::{Error, Result};

impl Query {
    /// The number behind the id that `?before=` names.
    pub(super) fn before(&self) -> Result<Option<u64>> {
        let Some(text) = self.get("before") else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            Error::invalid("before", format!("is {text:?}, allowed is an id of this list"))
        });
        number.map(Some)
    }
}

impl App {
    pub(super) fn learning_events(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let limit = query.limit()?;
        let events = self.reader.learning_events(query.before()?, limit + 1)?;
        Ok(page("events", events, limit, |last| Value::from(last.id.clone())))
    }

    pub(super) fn dead_letters(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let limit = query.limit()?;
        let letters = self.reader.dead_letters(query.before()?, limit + 1)?;
        let items: Vec<Value> = letters
            .into_iter()
            .map(|letter| {
                let is_cut = letter.is_cut();
                json!({
                    "id": letter.id,
                    "source": letter.source,
                    "code": letter.code,
                    "detail": letter.detail,
                    "topic": letter.topic,
                    "partition": letter.partition,
                    "offset": letter.offset,
                    "payload": String::from_utf8_lossy(&letter.payload),
                    "payload_bytes": letter.payload_bytes,
                    "payload_cut": is_cut,
                    "created_at": letter.created_at,
                })
            })
            .collect();
        Ok(page("dead_letters", items, limit, |last| last["id"].clone()))
    }
}
