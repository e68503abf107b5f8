//! `GET /client/{file}`: clients that the program carries, always of its own version. They are one file each
//! and need no registry.

use std::borrow::Cow;

use serde_json::json;

use super::access::Need;
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, nothing_at};

/// A client for a language.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Name of the language.
    pub language: &'static str,
    /// Name of the file.
    pub file: &'static str,
    /// All of it.
    pub text: &'static str,
}

/// Every client.
pub const CLIENTS: [Client; 2] = [
    Client {
        language: "python",
        file: "online_learning.py",
        text: include_str!("online_learning.py"),
    },
    Client {
        language: "typescript",
        file: "online_learning.ts",
        text: include_str!("online_learning.ts"),
    },
];

/// Plain text: a browser shows it, and runs it nowhere.
const MEDIA: &str = "text/plain; charset=utf-8";
/// The entity tag of every file.
const ETAG: &str = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");

pub(super) const FILE: Route = Route {
    method: "GET",
    pattern: "/client/{file}",
    id: "getClient",
    tag: Tag::Operations,
    // It is the same everywhere.
    need: Need::Nothing,
    handler: |app, call| app.client(&call.names[0], call.request),
    describe: |_| {
        let names = CLIENTS.map(|client| client.file);
        Operation::new("A client in one file, for a program that asks for agents")
            .name("file", json!({"type": "string", "enum": names}))
            .answer_of("The file", json!({"text/plain": {"schema": {"type": "string"}}}))
            .empty_answer(304, "It is the one that `If-None-Match` names")
    },
};

impl App {
    #[expect(clippy::unused_self, reason = "handlers are methods of what they share")]
    fn client(&self, file: &str, request: &Request<'_>) -> Answer {
        let Some(client) = CLIENTS.iter().find(|client| client.file == file) else {
            return Err(nothing_at(request.path()).into());
        };
        let is_known = request.header("if-none-match").is_some_and(names_it);
        let (status, text) = if is_known { (304, "") } else { (200, client.text) };
        let response = Response::new(status, MEDIA, text.into());
        // It may be kept, and is asked for again: the next version of the program has another.
        let response = response.with_header("cache-control", Cow::Borrowed("no-cache"));
        Ok(response.with_header("etag", ETAG))
    }
}

/// Whether a list of entity tags (RFC 9110, section 13.1.2) names ours.
fn names_it(tags: &str) -> bool {
    let mut tags = tags.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == ETAG || tag == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one has to read who takes a file into a program.
    const LINES_MAX: usize = 200;

    #[test]
    fn a_client_is_short_and_needs_nothing_but_its_language() {
        for Client { file, text, .. } in CLIENTS {
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{file} has {lines} lines");
            assert!(text.lines().all(|line| line.len() <= 120), "{file}");
        }
        let typescript = CLIENTS[1].text;
        assert!(!typescript.contains("import ") && !typescript.contains("require("));
    }

    #[test]
    fn an_entity_tag_is_found_in_a_list() {
        for (tags, expected) in [
            (ETAG, true),
            ("*", true),
            ("\"other\"", false),
            ("", false),
            (concat!("\"other\", W/\"", env!("CARGO_PKG_VERSION"), "\""), true),
        ] {
            assert_eq!(names_it(tags), expected, "{tags}");
        }
    }
}
