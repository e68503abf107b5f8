//! `DELETE /api/learning/agents/{name}`: let go of an agent.

use super::access::{Caller, Need, Scope};
use super::answers::AgentRemoved;
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::Request;
use super::{Answer, App, Query, json_response, kept};
use crate::learner::Event;

pub(super) const REMOVE_AGENT: Route = Route {
    method: "DELETE",
    pattern: "/api/learning/agents/{name}",
    id: "removeAgent",
    tag: Tag::Reports,
    // A tenant's own administrator removes its own.
    need: Need::Scope(Scope::Admin),
    handler: |app, call| app.remove_agent(&call.names[0], call.request, call.caller),
    describe: |schemas| {
        Operation::new("Remove an agent with what was learned of it").tenant(schemas).answer(
            200,
            "It is removed",
            schemas.answered::<AgentRemoved>(),
        )
    },
};

impl App {
    pub(super) fn remove_agent(
        &self,
        name: &str,
        request: &Request<'_>,
        caller: &Caller,
    ) -> Answer {
        let query = Query::of(request);
        let tenant = query.tenant(caller)?.to_owned();
        let model = self.shared.model();
        let is_known = model.tenant(&tenant).is_some_and(|tenant| tenant.agent(name).is_some());
        // An older state may hold one with blanks at its ends.
        let agent = if is_known { name.to_owned() } else { kept("name", name)?.into_owned() };
        let message = format!("agent {agent:?} of tenant {tenant:?} is removed");
        self.inbox.ask(|reply| Event::RemoveAgent { tenant, agent, reply })?;
        Ok(json_response(200, &AgentRemoved { status: "success", message }))
    }
}
