//! `DELETE /api/learning/agents/{name}`: let go of an agent.

use super::access::Caller;
use super::answers::AgentRemoved;
use super::server::Request;
use super::{Answer, App, Query, json_response};
use crate::error::Error;
use crate::learner::Event;
use crate::outcome::NAME_BYTES_MAX;

impl App {
    pub(super) fn remove_agent(
        &self,
        name: &str,
        request: &Request<'_>,
        caller: &Caller,
    ) -> Answer {
        let query = Query::of(request);
        let (agent, tenant) = (name.to_owned(), query.tenant(caller)?.to_owned());
        if !(1..=NAME_BYTES_MAX).contains(&agent.len()) {
            let detail = format!("has {} bytes, allowed are 1 to {NAME_BYTES_MAX}", agent.len());
            return Err(Error::invalid("name", detail).into());
        }
        let message = format!("agent {agent:?} of tenant {tenant:?} is removed");
        self.inbox.ask(|reply| Event::RemoveAgent { tenant, agent, reply })?;
        Ok(json_response(200, &AgentRemoved { status: "success", message }))
    }
}
