//! The table of routes. Routing, access, `Allow`, the description and the labels of the metrics come
//! from it: a new endpoint is a file with its row, and a line here.

use super::route::Route;
use super::{
    agents, alerts, budgets, catalog, client, dashboard, decisions, evaluate, feedback, lists,
    litellm, mcp, models, ofrep, openapi, otlp, outcomes, pareto, plots, predict, prometheus,
    status, values,
};

/// Every route, in the order of the description. The one that is asked most stands first.
pub(super) const ROUTES: &[Route] = &[
    predict::SELECT_AGENT,
    values::PREDICT_QUALITY,
    values::PREDICT_LATENCY,
    values::PREDICT_COST,
    status::METRICS,
    status::AGENTS_PERFORMANCE,
    pareto::PARETO,
    agents::REMOVE_AGENT,
    status::STATUS,
    models::SAVE,
    models::MODEL,
    models::VERSIONS,
    models::ACTIVATE,
    models::IMPORT,
    outcomes::REPORT,
    outcomes::REPORT_MANY,
    litellm::REPORT,
    feedback::FEEDBACK,
    otlp::TRACES,
    otlp::LOGS,
    otlp::METRICS,
    lists::EVENTS,
    evaluate::EVALUATE,
    decisions::LIST,
    decisions::ONE,
    lists::DEAD_LETTERS,
    outcomes::REPLAY,
    alerts::ALERTS,
    catalog::CATALOG,
    plots::PLOT,
    dashboard::DOCUMENT,
    dashboard::SCRIPT,
    dashboard::STYLE,
    budgets::LIST,
    budgets::SHOW,
    budgets::SET,
    budgets::REMOVE,
    status::LIVEZ,
    status::READYZ,
    status::HEALTH,
    prometheus::SCRAPE,
    openapi::DESCRIPTION,
    client::FILE,
    mcp::MCP,
    ofrep::EVALUATE_FLAG,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::access::{Need, Scope};
    use crate::http::route::{Matched, NOWHERE};

    /// The operation that a method on a path is, with the names in it.
    fn taken(method: &str, path: &str) -> Option<(&'static str, Vec<String>)> {
        let taken = Matched::of(ROUTES, path).taking(method);
        taken.map(|(route, names)| (route.id, names))
    }

    #[test]
    fn paths_are_decoded_and_matched_whole() {
        let version = "/api/learning/models/agent_selection/versions";
        for (id, decoded) in [("agent_selection-3", "agent_selection-3"), ("a%2Fb+c", "a/b+c")] {
            let expected = vec!["agent_selection".to_owned(), decoded.to_owned()];
            let path = format!("{version}/{id}/activate");
            assert_eq!(taken("POST", &path), Some(("activateVersion", expected)));
        }
        assert_eq!(taken("POST", "/api/learning/models/save"), Some(("saveModels", vec![])));
        assert_eq!(taken("GET", "/plots/score.svg"), Some(("getPlot", vec!["score".to_owned()])));
        assert_eq!(taken("GET", "/"), Some(("getDashboard", vec![])));
        for nothing in [
            "",
            "/index.html",
            "/plots/score",
            "/plots/.svg",
            "/api/learning",
            "/api/learning/",
            "/api/learning/status//",
            "//",
            "/api/learning/agents//",
            "/api/learning/decisions/%ff",
            "/api/learning/models/a/b",
        ] {
            let matched = Matched::of(ROUTES, nothing);
            assert!(matched.is_empty(), "{nothing}");
            assert_eq!(matched.pattern(), NOWHERE);
        }
        assert_eq!(taken("GET", "/api/learning/status/"), Some(("getStatus", vec![])));
        assert_eq!(taken("GET", "/api/learning/decisions/"), Some(("listDecisions", vec![])));
        for (id, decoded) in [("a==", "a=="), ("a%3D=&b", "a==&b"), ("%20+%C3%A9/", " +é")] {
            let path = format!("/api/learning/decisions/{id}");
            assert_eq!(taken("GET", &path), Some(("getDecision", vec![decoded.to_owned()])));
        }
    }

    #[test]
    fn an_agent_may_be_called_as_a_path_is() {
        for name in ["performance", "pareto"] {
            let path = format!("/api/learning/agents/{name}");
            assert_eq!(taken("DELETE", &path), Some(("removeAgent", vec![name.to_owned()])));
            // The description has DELETE at the pattern with the name.
            assert_eq!(Matched::of(ROUTES, &path).methods(), ["GET"]);
            assert_eq!(Matched::of(ROUTES, &path).pattern(), path);
        }
        // No model is called as what is done with models.
        for path in ["/api/learning/models/save", "/api/learning/models/import"] {
            assert_eq!(Matched::of(ROUTES, path).methods(), ["POST"]);
        }
    }

    #[test]
    fn rows_are_of_one_form_and_each_is_the_only_one_of_its_kind() {
        let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
        for Route { method, pattern, id, need, .. } in ROUTES {
            assert!(["GET", "POST", "PUT", "DELETE"].contains(method), "{id}");
            assert!(ids.insert(id), "{id}");
            assert!(places.insert((method, pattern)), "{method} {pattern}");
            assert!(id.bytes().all(|byte| byte.is_ascii_alphabetic()), "{id}");
            // What changes something is for whoever reports or runs, but for questions.
            let is_question =
                ["predict", "select", "evaluate", "call"].iter().any(|verb| id.starts_with(verb));
            let least = match need {
                Need::Nothing | Need::Asked(_) => None,
                Need::Scope(scope) | Need::AllTenants(scope) => Some(*scope),
            };
            assert!(*method == "GET" || is_question || least >= Some(Scope::Ingest), "{id}");
        }
    }
}
