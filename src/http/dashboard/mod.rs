//! The dashboard: a page, its script and its style, which are files of their own so that the policy
//! that goes with the page allows nothing written into it.

use super::server::Response;

/// One file of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// What a browser shows.
    Document,
    /// What asks the API, and shows the answers.
    Script,
    /// What it looks like.
    Style,
}

impl Page {
    pub(super) const ALL: [Self; 3] = [Self::Document, Self::Script, Self::Style];

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Document => "/",
            Self::Script => "/dashboard.js",
            Self::Style => "/dashboard.css",
        }
    }

    pub(super) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Document => "text/html; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
        }
    }

    pub(super) fn response(self) -> Response {
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
