//! Lists of what is stored: learning events and dead letters.

use super::answers::{DeadLetterBody, DeadLetters, Events};
use super::server::Request;
use super::{Answer, App, Query, json_response, page};
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
        let (events, next_before) = page(events, limit, |last| last.id.clone());
        Ok(json_response(200, &Events { events, next_before }))
    }

    pub(super) fn dead_letters(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let limit = query.limit()?;
        let letters = self.reader.dead_letters(query.before()?, limit + 1)?;
        let letters = letters.into_iter().map(DeadLetterBody::from).collect();
        let (dead_letters, next_before) = page(letters, limit, |last| last.id.clone());
        Ok(json_response(200, &DeadLetters { dead_letters, next_before }))
    }
}
