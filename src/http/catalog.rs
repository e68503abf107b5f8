//! `GET /api/learning/catalog`: what can be asked for, and what the caller may.

use std::collections::BTreeMap;

use super::access::{Caller, Need, Scope};
use super::answers::{CallerRights, Catalog};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, Query, json_response};

pub(super) const CATALOG: Route = Route {
    method: "GET",
    pattern: "/api/learning/catalog",
    id: "getCatalog",
    tag: Tag::Reports,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.catalog(call.request, call.caller),
    describe: |schemas| {
        Operation::new("What can be asked for, and what the caller may").tenant(schemas).answer(
            200,
            "Names",
            schemas.answered::<Catalog<'_>>(),
        )
    },
};

impl App {
    pub(super) fn catalog(&self, request: &Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let name = query.tenant(caller)?;
        let model = self.shared.model();
        let tenant = model.tenant(name);
        let mut body = Catalog {
            caller: CallerRights { scope: caller.scope().as_str(), tenant_id: caller.tenant() },
            tenants: match caller.tenant() {
                Some(own) => vec![own],
                None => model.tenants().map(|(name, _)| name).collect(),
            },
            task_types: Vec::new(),
            agents: Vec::new(),
            context_keys: Vec::new(),
            context_types: BTreeMap::new(),
        };
        if let Some(tenant) = tenant {
            body.task_types = tenant.task_types().map(|(name, _)| name).collect();
            body.agents = tenant.agents().map(|(name, _)| name).collect();
            body.context_keys = tenant.context_keys().map(|(name, _)| name).collect();
            let types = tenant.context_keys().map(|(name, key)| (name, key.kind().as_str()));
            body.context_types = types.collect();
        }
        Ok(json_response(200, &body))
    }
}
