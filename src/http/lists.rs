//! Lists of what is stored, read and written in parts, so that a long page of large rows takes the
//! memory of a few of them: learning events and dead letters here, decisions beside their answers.

use super::access::{Need, Scope};
use std::io::Write;

use serde::Serialize;

use super::answers::DeadLetterBody;
use super::operation::{Operation, number_as_id};
use super::route::{Route, Tag};
use super::server::{Broken, Request, Response};
use super::{Answer, App, Query, answers};
use crate::error::{Error, Result};

/// Size of a part, in bytes, as far as rows allow; a page up to this size is made whole.
const PART_BYTES: usize = 64 * 1024;
/// Most rows read at once.
const PART_ROWS_MAX: usize = 250;

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

/// An entry of a list.
pub(super) struct Row<T> {
    /// What comes after it in the list has a smaller one.
    pub(super) number: u64,
    /// What `?before=` takes for what comes after it.
    pub(super) id: String,
    /// As it is shown.
    pub(super) body: T,
}

impl<T> Row<T> {
    /// One whose id is its number, in decimal digits.
    fn numbered(id: &str, body: T) -> Self {
        Self { number: id.parse().unwrap_or(0), id: id.to_owned(), body }
    }
}

/// A page of a list: `{"NAME": [...], "next_before": id or null}`. `read` gives the rows before a
/// number, newest first, as many as asked for unless there are fewer.
pub(super) fn listed<T: Serialize>(
    name: &'static str,
    limit: u32,
    before: Option<u64>,
    read: impl FnMut(Option<u64>, u32) -> Result<Vec<Row<T>>> + Send + 'static,
) -> Answer {
    let mut page =
        Page { name, read, before, left: limit as usize, rows: 1, begun: false, ended: false };
    let mut first = Vec::new();
    while first.len() < PART_BYTES {
        let Some(part) = page.next() else { return Ok(Response::json(200, first)) };
        first.append(&mut part?);
    }
    let rest = page.map(|part| {
        part.map_err(|error| {
            log::error!("answer=cut_off error=\"{error}\"");
            Broken
        })
    });
    Ok(Response::json_in_parts(200, first, Box::new(rest)))
}

/// The parts of a page.
struct Page<R> {
    name: &'static str,
    read: R,
    before: Option<u64>,
    /// Rows that may still come.
    left: usize,
    /// Rows that are read next: as many as should make a part.
    rows: usize,
    begun: bool,
    ended: bool,
}

impl<T: Serialize, R: FnMut(Option<u64>, u32) -> Result<Vec<Row<T>>>> Iterator for Page<R> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        if self.ended {
            return None;
        }
        let part = self.part();
        self.ended |= part.is_err();
        Some(part)
    }
}

impl<T: Serialize, R: FnMut(Option<u64>, u32) -> Result<Vec<Row<T>>>> Page<R> {
    fn part(&mut self) -> Result<Vec<u8>> {
        let wanted = self.rows.min(self.left);
        let is_last = wanted == self.left;
        // One more row than the page has room for tells whether there is a page after it.
        let asked = u32::try_from(wanted + usize::from(is_last)).unwrap_or(u32::MAX);
        let mut rows = (self.read)(self.before, asked)?;
        let more = rows.len() > wanted;
        rows.truncate(wanted);
        self.ended = is_last || rows.len() < wanted;
        let mut json = Vec::new();
        if !self.begun {
            json.extend_from_slice(format!("{{\"{}\":[", self.name).as_bytes());
        }
        for row in &rows {
            if std::mem::replace(&mut self.begun, true) {
                json.push(b',');
            }
            write_json(&mut json, &row.body)?;
        }
        self.begun = true;
        self.left -= rows.len();
        if let Some(last) = rows.last() {
            self.before = Some(last.number);
            self.rows = (PART_BYTES * rows.len() / json.len()).clamp(1, PART_ROWS_MAX);
        }
        if self.ended {
            let next_before = rows.last().filter(|_| more).map(|last| &last.id);
            json.extend_from_slice(b"],\"next_before\":");
            write_json(&mut json, &next_before)?;
            json.push(b'}');
        }
        Ok(json)
    }
}

fn write_json(mut to: impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut to, value)
        .map_err(|error| Error::Fatal(format!("a row has no JSON form: {error}")))
}

pub(super) const EVENTS: Route = Route {
    method: "GET",
    pattern: "/api/learning/events",
    id: "listEvents",
    tag: Tag::Reports,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.learning_events(call.request),
    describe: |schemas| {
        Operation::new("What was learned, saved, activated, imported, newest first")
            .page("Only events older than this one", number_as_id())
            .answer(200, "A page", schemas.answered::<answers::Events>())
    },
};

pub(super) const DEAD_LETTERS: Route = Route {
    method: "GET",
    pattern: "/api/learning/dead-letters",
    id: "listDeadLetters",
    tag: Tag::Outcomes,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.dead_letters(call.request),
    describe: |schemas| {
        Operation::new("The events that were refused, newest first")
            .page("Only dead letters older than this one", number_as_id())
            .answer(200, "A page", schemas.answered::<answers::DeadLetters>())
    },
};

impl App {
    pub(super) fn learning_events(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let reader = self.reader.clone();
        listed("events", query.limit()?, query.before()?, move |before, limit| {
            let events = reader.learning_events(before, limit)?;
            Ok(events.into_iter().map(|event| Row::numbered(&event.id.clone(), event)).collect())
        })
    }

    pub(super) fn dead_letters(&self, request: &Request<'_>) -> Answer {
        let query = Query::of(request);
        let reader = self.reader.clone();
        listed("dead_letters", query.limit()?, query.before()?, move |before, limit| {
            let letters = reader.dead_letters(before, limit)?;
            let shown = letters.into_iter().map(DeadLetterBody::from);
            Ok(shown.map(|letter| Row::numbered(&letter.id.clone(), letter)).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Rows with the numbers `count` to 1, each of about `bytes`.
    fn page(count: u64, bytes: usize, limit: u32, before: Option<u64>) -> (Value, Vec<u32>) {
        let (asked_tx, asked_rx) = crossbeam_channel::unbounded();
        let read = move |before: Option<u64>, limit: u32| {
            asked_tx.send(limit).unwrap();
            let numbers = (1..before.unwrap_or(count + 1).min(count + 1)).rev();
            let row = |number: u64| Row::numbered(&format!("{number:09}"), "x".repeat(bytes));
            Ok(numbers.take(limit as usize).map(row).collect())
        };
        let left = limit as usize;
        let pages = Page { name: "rows", read, before, left, rows: 1, begun: false, ended: false };
        let text: Vec<u8> = pages.map(Result::unwrap).collect::<Vec<_>>().concat();
        (serde_json::from_slice(&text).unwrap(), asked_rx.try_iter().collect())
    }

    #[test]
    fn a_page_has_as_many_rows_as_asked_for_and_says_where_the_next_one_begins() {
        let check = |count: u64, bytes: usize, limit: u32, before: Option<u64>, wanted: usize| {
            let (page, asked) = page(count, bytes, limit, before);
            let rows = page["rows"].as_array().unwrap();
            assert_eq!(rows.len(), wanted, "{count} {bytes} {limit} {before:?}");
            let newest = before.map_or(count, |before| before - 1);
            let oldest = newest + 1 - wanted as u64;
            let next =
                if oldest > 1 && wanted > 0 { json!(format!("{oldest:09}")) } else { Value::Null };
            assert_eq!(page["next_before"], next, "{count} {bytes} {limit} {before:?}");
            let most = asked.iter().skip(1).map(|rows| *rows as usize * bytes).max();
            assert!(most.unwrap_or(0) <= 2 * PART_BYTES + bytes, "{asked:?}");
        };
        for bytes in [1, 1_000, 30_000, 100_000] {
            check(0, bytes, 10, None, 0);
            check(1, bytes, 10, None, 1);
            check(1, bytes, 1, None, 1);
            check(2, bytes, 1, None, 1);
            check(10, bytes, 10, None, 10);
            check(10, bytes, 9, None, 9);
            check(11, bytes, 10, None, 10);
            check(300, bytes, 299, Some(300), 299);
            check(300, bytes, 1_000, Some(5), 4);
            check(300, bytes, 1_000, Some(1), 0);
        }
        check(2_000, 10, 1_000, None, 1_000);
    }

    #[test]
    fn a_page_that_fails_at_once_is_an_error_and_later_it_is_cut_off() {
        let failing = |rows: usize| {
            let mut reads = 0;
            move |before: Option<u64>, _: u32| {
                reads += 1;
                if reads > rows {
                    return Err(Error::Unavailable("locked".to_owned()));
                }
                let number = before.unwrap_or(1_000) - 1;
                Ok(vec![Row::numbered(&number.to_string(), "x".repeat(PART_BYTES))])
            }
        };
        let failure = listed("rows", 10, None, failing(0)).map(drop).unwrap_err();
        assert_eq!(failure.response.status, 503);
        let response = listed("rows", 10, None, failing(2));
        let response = response.unwrap_or_else(|failure| failure.response);
        assert_eq!(response.status, 200);
        assert!(response.body.starts_with(b"{\"rows\":[\"xxx"));
    }
}
