//! What a route is, and which route a request takes. A route's row stands beside its handler, with the
//! types that it reads and answers; the table of all is in [`super::routes`].

use super::access::{Caller, Need};
use super::operation::{Operation, Schemas};
use super::server::Request;
use super::{Answer, App};

/// Stands for every path that names nothing.
pub(super) const NOWHERE: &str = "other";

/// What a route belongs to, as generated clients group their calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Questions for the agent that should take a task.
    Selection,
    /// Reports of what came of a task.
    Outcomes,
    /// The same in the words of telemetry.
    Telemetry,
    /// What agents have done, and what that says.
    Reports,
    /// Saved versions of the models.
    Models,
    /// How the service does.
    Operations,
}

impl Tag {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Outcomes => "outcomes",
            Self::Telemetry => "telemetry",
            Self::Reports => "reports",
            Self::Models => "models",
            Self::Operations => "operations",
        }
    }
}

/// One row of the table: a method on a path, who may, what answers it, and how it is described.
pub(super) struct Route {
    /// HEAD goes with GET.
    pub(super) method: &'static str,
    /// The path, with names in braces in the place of what varies; also its label in the metrics.
    pub(super) pattern: &'static str,
    /// What it does, as a verb: `operationId` of the description.
    pub(super) id: &'static str,
    pub(super) tag: Tag,
    /// What a caller needs, where there are tokens.
    pub(super) need: Need,
    pub(super) handler: fn(&App, &mut Call<'_, '_>) -> Answer,
    pub(super) describe: fn(&mut Schemas) -> Operation,
}

/// A request on its route, whose caller may ask it.
pub(super) struct Call<'c, 'r> {
    pub(super) request: &'c mut Request<'r>,
    pub(super) caller: &'c Caller,
    /// What stands in the place of the names in braces, decoded, in their order.
    pub(super) names: Vec<String>,
}

/// The routes of a path.
pub(super) struct Matched {
    /// What stands for the names in braces, by route.
    found: Vec<(&'static Route, Vec<String>)>,
}

impl Matched {
    /// The routes of `path`, with or without a slash at its end. A path that a row names literally is not
    /// taken for one with a name in it, but for `{name}`, which is free: an agent may be called as a path is.
    pub(super) fn of(routes: &'static [Route], path: &str) -> Self {
        let path = match path.strip_suffix('/') {
            Some(path) if !path.is_empty() && !path.ends_with('/') => path,
            _ => path,
        };
        let literal = routes.iter().filter(|route| route.pattern == path);
        let mut found: Vec<_> = literal.map(|route| (route, Vec::new())).collect();
        let braces = if found.is_empty() { "{" } else { "{name}" };
        let names = |route: &'static Route| Some((route, names(route.pattern, path)?));
        found
            .extend(routes.iter().filter(|route| route.pattern.contains(braces)).filter_map(names));
        Self { found }
    }

    /// The pattern to count a request under.
    pub(super) fn pattern(&self) -> &'static str {
        self.found.first().map_or(NOWHERE, |(route, _)| route.pattern)
    }

    /// Whether the path names nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The methods that the description names at the path's pattern.
    pub(super) fn methods(&self) -> Vec<&'static str> {
        let described = self.found.iter().filter(|(route, _)| route.pattern == self.pattern());
        described.map(|(route, _)| route.method).collect()
    }

    /// The route that takes `method`, and what stands for the names in its pattern.
    pub(super) fn taking(self, method: &str) -> Option<(&'static Route, Vec<String>)> {
        self.found.into_iter().find(|(route, _)| route.method == method)
    }
}

/// What stands in `path` for the names in braces of a pattern; `None` when it is another path.
fn names(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    let mut names = Vec::new();
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return Some(names),
            (Some(pattern), Some(segment)) => match pattern.split_once('{') {
                None if pattern == segment => {}
                None => return None,
                Some((before, rest)) => {
                    let (_, after) = rest.split_once('}')?;
                    let name = segment.strip_prefix(before)?.strip_suffix(after)?;
                    names.push(decoded(name)?);
                }
            },
            _ => return None,
        }
    }
}

/// A path segment without its percent signs; `None` for an empty one, and one that is no text.
fn decoded(segment: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
}
