//! The dashboard: a page, its script and its style, which are files of their own so that the policy
//! that goes with the page allows nothing written into it.

use serde_json::json;

use super::access::Need;
use super::operation::{Operation, Schemas};
use super::route::{Call, Route, Tag};
use super::server::Response;
use super::{Answer, App};

/// One file of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// What a browser shows.
    Document,
    /// What asks the API, and shows the answers.
    Script,
    /// What it looks like.
    Style,
}

pub(super) const DOCUMENT: Route =
    route("/", "getDashboard", |_, _| Ok(Page::Document.response()), |_| described(Page::Document));

pub(super) const SCRIPT: Route = route(
    "/dashboard.js",
    "getDashboardScript",
    |_, _| Ok(Page::Script.response()),
    |_| described(Page::Script),
);

pub(super) const STYLE: Route = route(
    "/dashboard.css",
    "getDashboardStyle",
    |_, _| Ok(Page::Style.response()),
    |_| described(Page::Style),
);

/// The row of a file. None needs a token: the page shows what its reader's token may see.
const fn route(
    pattern: &'static str,
    id: &'static str,
    handler: fn(&App, &mut Call<'_, '_>) -> Answer,
    describe: fn(&mut Schemas) -> Operation,
) -> Route {
    Route {
        method: "GET",
        pattern,
        id,
        tag: Tag::Operations,
        need: Need::Nothing,
        handler,
        describe,
    }
}

fn described(page: Page) -> Operation {
    let media = page.media_type().split(';').next().unwrap_or_default();
    Operation::new("The dashboard, or a part of it")
        .answer_of("A file", json!({media: {"schema": {"type": "string"}}}))
}

impl Page {
    fn media_type(self) -> &'static str {
        match self {
            Self::Document => "text/html; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
        }
    }

    fn response(self) -> Response {
        let text = match self {
            Self::Document => include_str!("dashboard.html"),
            Self::Script => include_str!("dashboard.js"),
            Self::Style => include_str!("dashboard.css"),
        };
        Response::new(200, self.media_type(), text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_holds_no_code() {
        let text = |page: Page| String::from_utf8(page.response().body).unwrap();
        let (html, script, style) = (text(Page::Document), text(Page::Script), text(Page::Style));
        for (name, text) in [("page", &html), ("script", &script), ("style", &style)] {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            for thing in ["http://", "https://", "//cdn", "@import", "url("] {
                assert!(!elsewhere.contains(thing), "{name} has {thing}");
            }
        }
        for thing in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!html.contains(thing), "{thing}");
        }
        assert_eq!(html.matches("<script").count(), 1);
        for thing in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "localStorage",
            "document.cookie",
        ] {
            assert!(!script.contains(thing), "{thing}");
        }
    }

    #[test]
    fn every_element_that_the_script_names_is_in_the_page() {
        let (html, script) = (include_str!("dashboard.html"), include_str!("dashboard.js"));
        let names = script.split("byId(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let names: Vec<&str> = names.collect();
        assert!(names.len() > 40);
        for name in names {
            assert!(html.contains(&format!("id=\"{name}\"")), "{name}");
        }
    }
}
