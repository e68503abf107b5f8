//! Spending caps: set, shown, taken away.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::access::{Caller, Need, Scope};
use super::answers::{BudgetBody, BudgetRemoved, Budgets};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Failure, json_body, json_object, json_response, kept};
use crate::error::{Error, Result};
use crate::learner::{Event, Now};
use crate::outcome::fields::{self, refused};
use crate::outcome::format_time;
use crate::store::Counters;
use crate::watch::budget::{Budget, Period};

/// What may be spent in a period: shares of it must stay numbers.
pub(super) const AMOUNT_MIN: f64 = 1e-6;
pub(super) const AMOUNT_MAX: f64 = 1e12;

pub(super) const LIST: Route = Route {
    method: "GET",
    pattern: "/api/learning/budgets",
    id: "listBudgets",
    tag: Tag::Operations,
    need: Need::Scope(Scope::Read),
    handler: |app, call| Ok(app.list_budgets(call.caller)),
    describe: |schemas| {
        let answer = schemas.answered::<Budgets<'_>>();
        Operation::new("What tenants may spend and have spent").answer(
            200,
            "Those that have a budget",
            answer,
        )
    },
};

pub(super) const SHOW: Route = Route {
    method: "GET",
    pattern: "/api/learning/budgets/{tenant_id}",
    id: "getBudget",
    tag: Tag::Operations,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.budget(&call.names[0], call.caller),
    describe: |schemas| {
        Operation::new("What a tenant may spend and has spent")
            .answer(200, "How it stands", schemas.answered::<BudgetBody<'_>>())
            .problem(422)
    },
};

pub(super) const SET: Route = Route {
    method: "PUT",
    pattern: "/api/learning/budgets/{tenant_id}",
    id: "setBudget",
    tag: Tag::Operations,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.put_budget(&call.names[0], call.request, call.caller),
    describe: |schemas| {
        Operation::new("Set what a tenant may spend")
            .json(schemas.asked::<BudgetRequest>())
            .answer(200, "How it stands", schemas.answered::<BudgetBody<'_>>())
            .problem(409)
    },
};

pub(super) const REMOVE: Route = Route {
    method: "DELETE",
    pattern: "/api/learning/budgets/{tenant_id}",
    id: "removeBudget",
    tag: Tag::Operations,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.remove_budget(&call.names[0], call.caller),
    describe: |schemas| {
        Operation::new("Let a tenant spend without limit")
            .answer(200, "The budget is gone", schemas.answered::<BudgetRemoved>())
            .problem(422)
    },
};

/// A tenant's name as outcomes have it, where the caller may name it.
fn own<'a>(tenant: &'a str, caller: &Caller) -> std::result::Result<Cow<'a, str>, Failure> {
    let tenant = kept("tenant_id", tenant)?;
    caller.tenant_or(Some(&tenant))?;
    Ok(tenant)
}

impl App {
    fn budget(&self, tenant: &str, caller: &Caller) -> Answer {
        self.show_budget(&own(tenant, caller)?)
    }

    fn put_budget(&self, tenant: &str, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let tenant = own(tenant, caller)?;
        let budget = parse(json_body(request)?.as_deref())?;
        self.set_budget(&tenant, Some(budget))?;
        self.show_budget(&tenant)
    }

    fn remove_budget(&self, tenant: &str, caller: &Caller) -> Answer {
        let tenant = own(tenant, caller)?;
        self.known_budget(&tenant)?;
        self.set_budget(&tenant, None)?;
        let message = format!("tenant {tenant:?} may spend without limit");
        Ok(json_response(200, &BudgetRemoved { status: "success", message }))
    }

    fn set_budget(&self, tenant: &str, budget: Option<Budget>) -> Result<()> {
        let tenant = tenant.to_owned();
        self.inbox.ask(|reply| Event::SetBudget { tenant, budget, reply })
    }

    fn known_budget(&self, tenant: &str) -> Result<Budget> {
        self.shared.budgets().get(tenant).copied().ok_or_else(|| {
            Error::NotFound(format!("tenant {tenant:?} has no budget; PUT one here to set it"))
        })
    }

    fn show_budget(&self, tenant: &str) -> Answer {
        let budget = self.known_budget(tenant)?;
        Ok(json_response(200, &body(tenant, budget, &self.shared.counters())))
    }

    /// There are no more than tenants may be.
    pub(super) fn list_budgets(&self, caller: &Caller) -> Response {
        let (budgets, counters) = (self.shared.budgets(), self.shared.counters());
        let is_own = |tenant: &str| caller.tenant().is_none_or(|own| own == tenant);
        let budgets = budgets.iter().filter(|(tenant, _)| is_own(tenant));
        let budgets = budgets.map(|(tenant, budget)| body(tenant, *budget, &counters)).collect();
        json_response(200, &Budgets { budgets })
    }
}

fn body<'a>(tenant: &'a str, budget: Budget, counters: &Counters) -> BudgetBody<'a> {
    let standing = budget.standing(counters.spending.get(tenant), Now::read().unix_ms);
    BudgetBody {
        tenant_id: tenant,
        amount: budget.amount,
        period: budget.period,
        period_start: format_time(standing.from_ms),
        period_end: format_time(standing.to_ms),
        spent: standing.spent,
        share_spent: standing.share_spent,
        share_elapsed: standing.share_elapsed,
        cost_weight: standing.cost_weight(),
        exhausted: standing.is_exhausted(),
    }
}

/// The body of a request to set what a tenant may spend.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetRequest {
    /// In the user's currency.
    #[schemars(required, schema_with = "amount")]
    amount: Option<Value>,
    /// How long it has to last.
    #[schemars(required, with = "Period")]
    period: Option<Value>,
}

fn amount(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "number", "minimum": AMOUNT_MIN, "maximum": AMOUNT_MAX})
}

fn parse(body: Option<&[u8]>) -> std::result::Result<Budget, Failure> {
    let request: BudgetRequest = fields::read(json_object(body)?)?;
    let amount = request.amount.unwrap_or_default();
    let period = request.period.unwrap_or_default();
    let in_range = |amount: &f64| (AMOUNT_MIN..=AMOUNT_MAX).contains(amount);
    let Some(amount_seen) = amount.as_f64().filter(in_range) else {
        let allowed = format!("a number from {AMOUNT_MIN} to {AMOUNT_MAX}");
        return Err(refused("amount", &amount, &allowed).into());
    };
    let Some(period_seen) = period.as_str().and_then(Period::of) else {
        return Err(refused("period", &period, "\"day\" or \"month\"").into());
    };
    Ok(Budget { amount: amount_seen, period: period_seen })
}
