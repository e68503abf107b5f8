//! `POST /api/learning/predict/agent-selection`: which agent should take this task?

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::access::Caller;
use super::access::{Need, Scope};
use super::answers::{
    BudgetEffect, Constrained, Evidence, LeftOut, Recommendations, Recommended, ScoreDetails,
};
use super::objective::{ConstraintFields, Objective, ObjectiveField, OnInfeasible};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Failure, json_body, json_object, json_response, new_id};
use crate::error::{Error, Result};
use crate::learner::{Event, Now};
use crate::model::{
    AgentPerformanceModel, Contest, EVIDENCE_MIN, Limits, OnUnknown, Question, Terms,
};
use crate::outcome::decisions::{Choice, Decision, First, RequestHash};
use crate::outcome::fields::{self, AnyObject, Id, Name, Names, Real, Whole};
use crate::outcome::{
    Context, DEFAULT_TENANT, TraceId, format_time, is_placeholder, read_context, trace_of_parent,
};

const TOP_K_MAX: u64 = 1_000;
const TOP_K_DEFAULT: usize = 3;
/// Outcomes on the task type from which on it is called established.
const ESTABLISHED_FROM: u64 = 30;
/// Standings kept of answered questions: about 20 MB at most.
const CACHED_STANDINGS_MAX: usize = 50_000;
/// Bytes of a question's context that weigh as much as a standing.
const CONTEXT_BYTES_PER_STANDING: usize = 256;
/// Longest context of a question that is kept, in bytes.
const CACHED_CONTEXT_BYTES_MAX: usize = 4_096;
/// Names in a question that is kept.
const CACHED_NAMES_MAX: usize = 64;
/// What a budget may at most multiply the weight of cost by.
const COST_WEIGHT_MAX: f64 = 1e6;
/// Agents that the error of an infeasible request names.
const INFEASIBLE_SHOWN: usize = 3;

/// The body of a request for a prediction.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictionRequest {
    /// Kind of the task.
    task_type: Option<Name>,
    /// What is known of the task: strings, booleans, numbers, nested by dotted path.
    context: Option<AnyObject>,
    /// How many agents; 3 unless given.
    top_k: Option<Whole<1, TOP_K_MAX>>,
    /// Only these, known or new, and at least one that is not excluded; all known unless given.
    #[schemars(length(min = 1))]
    candidates: Option<Names>,
    /// But none of these.
    exclude: Option<Names>,
    /// Whose agents; `default` unless given.
    tenant_id: Option<Name>,
    /// True unless given; false ranks by what is expected instead of a draw.
    explore: Option<bool>,
    /// Share of answers in which the first is any of those who may be, each as likely, instead of the
    /// best of a draw; as configured unless given.
    explore_min: Option<Real<0, 1>>,
    /// Makes the draw reproducible.
    seed: Option<Whole<0, { u64::MAX }>>,
    /// Say what each score is made of.
    explain: Option<bool>,
    /// What agents are ranked by; `success` unless given.
    objective: Option<ObjectiveField>,
    /// What an agent has to meet.
    constraints: Option<ConstraintFields>,
    /// What to answer when no agent meets the constraints; `best_effort` unless given.
    on_infeasible: Option<OnInfeasible>,
    /// What becomes of an agent of which too little is known to judge a constraint; `auto` unless given.
    on_unknown: Option<OnUnknown>,
    /// Given twice, the answer is repeated; a new `UUIDv7` unless given, also for what programs write
    /// for no id: `0`, `null`, `none`, the nil UUID. That is counted in `dropped_fields`.
    decision_id: Option<Id>,
}

/// A request for a prediction, checked. Its JSON is what two requests under one id are compared by:
/// a field added later is left out of it where a request does not give it, or requests of before would
/// be others.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Prediction {
    tenant_id: String,
    task_type: Option<String>,
    context: Context,
    pub(super) top_k: usize,
    candidates: Option<Vec<String>>,
    exclude: Vec<String>,
    explore: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    explore_min: Option<f64>,
    seed: Option<u64>,
    explain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    objective: Option<Objective>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<Limits>,
    #[serde(skip_serializing_if = "is_best_effort")]
    on_infeasible: OnInfeasible,
    #[serde(skip_serializing_if = "is_auto")]
    on_unknown: OnUnknown,
    #[serde(skip)]
    decision_id: Option<String>,
    /// What was left out, by name: of the context what is no feature, an id that is none.
    #[serde(skip)]
    pub(super) dropped: BTreeMap<&'static str, u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_best_effort(on_infeasible: &OnInfeasible) -> bool {
    *on_infeasible == OnInfeasible::BestEffort
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_auto(on_unknown: &OnUnknown) -> bool {
    *on_unknown == OnUnknown::Auto
}

impl Prediction {
    /// The request of a body, for the caller's tenant.
    pub(super) fn of(
        request: PredictionRequest,
        caller: &Caller,
    ) -> std::result::Result<Self, Failure> {
        let strings = |names: Option<Names>| names.map(Names::into_strings);
        let string = |name: Option<Name>| name.map(|Name(name)| name);
        let tenant_id = string(request.tenant_id);
        let tenant_id =
            caller.tenant_or(tenant_id.as_deref())?.unwrap_or(DEFAULT_TENANT).to_owned();
        let candidates = strings(request.candidates);
        let exclude = strings(request.exclude).unwrap_or_default();
        if let Some(candidates) = &candidates
            && candidates.iter().all(|candidate| exclude.contains(candidate))
        {
            return Err(Error::invalid(
                "/candidates",
                "leaves nobody: name at least one agent that is not in exclude",
            )
            .into());
        }
        let context = request.context.map(|AnyObject(context)| read_context(&context.into()));
        let (context, left_out) = context.unwrap_or_default();
        let mut dropped = BTreeMap::new();
        for field in left_out {
            *dropped.entry(field).or_default() += 1;
        }
        // What a client writes for "none" is no id: it gets one made up, as if it had given none.
        let given_id = request.decision_id.map(|Id(id)| id);
        let decision_id = given_id.clone().filter(|id| !is_placeholder(id));
        if decision_id != given_id {
            dropped.insert("decision_id", 1);
        }
        let top_k = request.top_k.map(|Whole(top_k)| top_k);
        Ok(Self {
            tenant_id,
            task_type: string(request.task_type),
            context,
            dropped,
            top_k: top_k
                .map_or(TOP_K_DEFAULT, |top_k| usize::try_from(top_k).unwrap_or(usize::MAX)),
            candidates,
            exclude,
            explore: request.explore.unwrap_or(true),
            explore_min: request.explore_min.map(|Real(share)| share),
            seed: request.seed.map(|Whole(seed)| seed),
            explain: request.explain.unwrap_or(false),
            objective: request.objective.map(ObjectiveField::check).transpose()?,
            constraints: request.constraints.map(ConstraintFields::check).transpose()?,
            on_infeasible: request.on_infeasible.unwrap_or_default(),
            on_unknown: request.on_unknown.unwrap_or_default(),
            decision_id,
        })
    }

    /// Tells two questions apart, whatever their id.
    fn hash(&self) -> RequestHash {
        let json = serde_json::to_vec(self).expect("a request always has a JSON form");
        let mut hash = RequestHash::default();
        let digest = Sha256::digest(json);
        hash.copy_from_slice(&digest[..size_of::<RequestHash>()]);
        hash
    }

    /// By what the agents compete, while a budget stands like this; `explore_min` unless the request has
    /// its own.
    fn terms(&self, effect: Option<&BudgetEffect>, explore_min: f64) -> Terms {
        let explore_min = self.explore_min.unwrap_or(explore_min);
        let mut terms = Terms { explore_min, ..Terms::default() };
        if let Some(Objective { weights, scales }) = self.objective {
            (terms.weights, terms.scales) = (weights, scales);
        }
        if let Some(limits) = self.constraints {
            terms.limits = limits;
        }
        terms.on_unknown = self.on_unknown;
        if let Some(effect) = effect {
            terms.weights.cost *= effect.cost_weight;
            terms.cheapest_first = effect.exhausted;
        }
        terms
    }

    fn gives_weight_to_cost(&self) -> bool {
        self.objective.is_some_and(|objective| objective.weights.cost > 0.0)
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question {
            tenant: &self.tenant_id,
            task_type: self.task_type.as_deref(),
            context: &self.context,
            candidates: self.candidates.as_deref(),
            exclude: &self.exclude,
        }
    }
}

pub(super) fn evidence(outcomes: u64) -> Evidence {
    match outcomes {
        ..EVIDENCE_MIN => Evidence::Insufficient,
        EVIDENCE_MIN..ESTABLISHED_FROM => Evidence::Emerging,
        ESTABLISHED_FROM.. => Evidence::Established,
    }
}

/// A question as one snapshot answers it; what is costly is worked out when first asked for.
struct Answered {
    contest: Contest,
    intervals: Vec<OnceLock<Option<[f64; 2]>>>,
    propensities: OnceLock<Vec<f64>>,
    best_expected: OnceLock<Option<usize>>,
    /// As they are recorded, without and with a draw.
    candidates: [OnceLock<Arc<str>>; 2],
    /// Of the tenant in the snapshot.
    model_score: f64,
}

impl Answered {
    fn new(contest: Contest, model_score: f64) -> Self {
        Self {
            intervals: contest.standings.iter().map(|_| OnceLock::new()).collect(),
            best_expected: OnceLock::new(),
            propensities: OnceLock::new(),
            candidates: [OnceLock::new(), OnceLock::new()],
            model_score,
            contest,
        }
    }

    /// How many plain standings take as much memory, about.
    fn weight(&self) -> usize {
        let Contest { standings, excluded, violations, .. } = &self.contest;
        let sides = if self.contest.is_success_alone() { 1 } else { 2 };
        let reasons = excluded.iter().map(|excluded| excluded.reason.len());
        let reasons = reasons.chain(violations.iter().map(|violation| violation.reason.len()));
        let texts = reasons.map(|bytes| 1 + bytes / CONTEXT_BYTES_PER_STANDING).sum::<usize>();
        1 + standings.len() * sides + texts
    }

    fn interval(&self, index: usize) -> Option<[f64; 2]> {
        *self.intervals[index].get_or_init(|| self.contest.standings[index].interval())
    }

    /// The probability that this agent is ranked first.
    fn propensity(&self, index: usize, explore: bool) -> f64 {
        if explore {
            self.propensities.get_or_init(|| self.contest.propensities())[index]
        } else {
            f64::from(u8::from(self.best_expected() == Some(index)))
        }
    }

    /// Who is ranked first without a draw.
    fn best_expected(&self) -> Option<usize> {
        *self.best_expected.get_or_init(|| self.contest.best_expected())
    }

    /// Everyone who competed, as [`Choice::candidates`] has it.
    fn candidates(&self, explore: bool) -> Arc<str> {
        let candidates = self.candidates[usize::from(explore)].get_or_init(|| {
            let rows = self.contest.standings.iter().enumerate().map(|(index, standing)| {
                let (expected, propensity) =
                    (standing.expected_success(), self.propensity(index, explore));
                (&*standing.agent, rounded(expected), rounded(propensity))
            });
            let rows: Vec<(&str, f32, f32)> = rows.collect();
            serde_json::to_string(&rows).expect("names and numbers always have a JSON form").into()
        });
        candidates.clone()
    }
}

/// Seven digits are enough for a record, and half the size.
#[expect(clippy::cast_possible_truncation, reason = "that is the point")]
fn rounded(probability: f64) -> f32 {
    probability as f32
}

/// What identifies a question to one snapshot.
#[derive(PartialEq, Eq, Hash)]
struct QuestionKey {
    tenant: String,
    task_type: Option<String>,
    candidates: Option<Vec<String>>,
    exclude: Vec<String>,
    /// Encoded; empty where the strategy takes no notice of it.
    context: Vec<u8>,
    /// As JSON; empty for success without limits.
    terms: Vec<u8>,
}

/// Questions answered from the newest snapshot.
#[derive(Default)]
pub(super) struct Questions {
    cached: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    model_version: u64,
    standings: usize,
    answered: HashMap<QuestionKey, Arc<Answered>>,
}

impl Questions {
    fn answer(
        &self,
        model: &AgentPerformanceModel,
        prediction: &Prediction,
        terms: &Terms,
    ) -> Arc<Answered> {
        let compute = || {
            let contest = model.contest(&prediction.question(), terms);
            let tenant = model.tenant(&prediction.tenant_id);
            Arc::new(Answered::new(contest, tenant.map_or(0.0, |tenant| tenant.score().current())))
        };
        let candidates = prediction.candidates.as_ref().map_or(0, Vec::len);
        let success_alone = *terms == Terms::default();
        let context = if success_alone && !model.reads_context() {
            Some(Vec::new())
        } else {
            postcard::to_stdvec(&prediction.context).ok()
        };
        let context = context.filter(|bytes| bytes.len() <= CACHED_CONTEXT_BYTES_MAX);
        let few_names = candidates + prediction.exclude.len() <= CACHED_NAMES_MAX;
        let (Some(context), true) = (context, few_names) else { return compute() };
        let context_weight = context.len() / CONTEXT_BYTES_PER_STANDING;
        let key = QuestionKey {
            tenant: prediction.tenant_id.clone(),
            task_type: prediction.task_type.clone(),
            candidates: prediction.candidates.clone(),
            exclude: prediction.exclude.clone(),
            context,
            terms: if success_alone {
                Vec::new()
            } else {
                serde_json::to_vec(terms).expect("numbers always have a JSON form")
            },
        };
        {
            let cached = self.cached.lock();
            if cached.model_version == model.sequence()
                && let Some(answered) = cached.answered.get(&key)
            {
                return answered.clone();
            }
        }
        let answered = compute();
        let mut cached = self.cached.lock();
        let weight = answered.weight() + context_weight;
        if cached.model_version != model.sequence()
            || cached.standings + weight > CACHED_STANDINGS_MAX
        {
            cached.answered.clear();
            cached.standings = 0;
            cached.model_version = model.sequence();
        }
        cached.standings += weight;
        cached.answered.insert(key, answered.clone());
        answered
    }
}

pub(super) const SELECT_AGENT: Route = Route {
    method: "POST",
    pattern: "/api/learning/predict/agent-selection",
    id: "selectAgent",
    tag: Tag::Selection,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.predict_agent_selection(call.request, call.caller),
    describe: |schemas| {
        let request = schemas.asked::<PredictionRequest>();
        let answer = schemas.answered::<Recommendations<'_>>();
        Operation::new("Which agent should take this task?")
            .header("traceparent", "Telemetry of the same trace is joined with the decision (W3C)")
            .optional_json(request)
            .answer(200, "Agents, best first; none when nobody is known", answer)
            .problem(409)
    },
};

impl App {
    pub(super) fn predict_agent_selection(
        &self,
        request: &mut Request<'_>,
        caller: &Caller,
    ) -> Answer {
        let body = json_body(request)?;
        let began = Instant::now();
        let trace = request.header("traceparent").and_then(trace_of_parent);
        let answer = self.predict(body.as_deref(), trace, caller);
        self.shared.instruments.prediction_seconds.observe(began.elapsed().as_secs_f64());
        answer
    }

    /// `trace`: the one that the request is part of.
    pub(super) fn predict(
        &self,
        body: Option<&[u8]>,
        trace: Option<TraceId>,
        caller: &Caller,
    ) -> Answer {
        let prediction = Prediction::of(fields::read(json_object(body)?)?, caller)?;
        let tenant = &prediction.tenant_id;
        if let Some(id) = &prediction.decision_id
            && let Some(known) = self.known_answer(tenant, id)?
        {
            return repeated(&known, &prediction);
        }

        let model = self.shared.model();
        let now = Now::read();
        let effect = self.budget_effect(&prediction, now.unix_ms);
        let answered = self.questions.answer(
            &model,
            &prediction,
            &prediction.terms(effect.as_ref(), self.options.explore_min),
        );
        let contest = &answered.contest;
        if prediction.on_infeasible == OnInfeasible::Error && !contest.is_feasible() {
            return Err(infeasible(contest).into());
        }
        let seed = prediction.seed.unwrap_or_else(|| rand::rng().random());
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut ranked = contest.rank(prediction.explore, &mut rng);
        ranked.truncate(prediction.top_k);

        let decision_id = prediction.decision_id.clone().unwrap_or_else(|| new_id(now.unix_ms));
        let recommendations = ranked.iter().enumerate().map(|(place, recommendation)| {
            let index = recommendation.standing;
            let standing = &contest.standings[index];
            Recommended {
                agent_name: &recommendation.agent,
                score: recommendation.score,
                rank: place + 1,
                expected_success: standing.expected_success(),
                interval: answered.interval(index),
                samples: standing.samples,
                propensity: answered.propensity(index, prediction.explore),
                evidence: evidence(standing.evidence),
                explanation: prediction
                    .explain
                    .then(|| model.explain(&prediction.question(), &standing.agent)),
                parts: prediction.objective.map(|_| recommendation.parts),
                violation: contest.violations.get(index).map(|violation| &*violation.reason),
                limits: prediction
                    .constraints
                    .map(|_| contest.verdicts[index].iter().copied().collect()),
            }
        });
        let recorded = self.shared.decisions.has_room(tenant);
        let answer = Recommendations {
            recommendations: recommendations.collect(),
            model_score: answered.model_score,
            timestamp: format_time(now.unix_ms),
            decision_id: &decision_id,
            model_version: caller.version_of(&model),
            strategy: model.settings().strategy.as_str(),
            recorded,
            details: prediction.details(contest, effect),
            excluded: prediction.constraints.map(|_| left_out(contest)),
            dropped_fields: &prediction.dropped,
        };
        let response = json_response(200, &answer);
        let choice = recorded.then(|| {
            let first = ranked.first();
            let index = first.map(|first| first.standing);
            Choice {
                created_ms: now.unix_ms,
                candidates: answered.candidates(prediction.explore),
                first: answer.recommendations.first().zip(first).map(|(shown, first)| First {
                    agent: first.agent.clone(),
                    score: shown.score,
                    propensity: shown.propensity,
                }),
                explore: prediction.explore,
                explored: index != answered.best_expected(),
                model_version: model.sequence(),
                strategy: answer.strategy,
                details: answer.details.recorded(
                    ranked
                        .first()
                        .map(|first| first.parts)
                        .filter(|_| prediction.objective.is_some()),
                ),
                trace,
            }
        });
        let decision = Decision {
            request: prediction.hash(),
            answer: response.body.clone(),
            task_type: prediction.task_type.clone(),
            context: prediction.context.clone(),
        };
        let (stands, is_first) =
            self.shared.decisions.remember(tenant, &decision_id, decision, choice);
        if is_first {
            // In a full queue the learner finds it by itself, and a service that stops looks last.
            let _ = self.inbox.offer(Event::Decisions);
        }
        if prediction.decision_id.is_none() {
            return Ok(response);
        }
        // Two requests with the same id at the same time: the first one answers both.
        repeated(&stands, &prediction)
    }
}

impl App {
    /// The decision of this id, remembered or recorded.
    pub(super) fn known_answer(&self, tenant: &str, id: &str) -> Result<Option<Arc<Decision>>> {
        match self.shared.decisions.get(tenant, id) {
            None if self.shared.decisions.has_forgotten() => {
                Ok(self.reader.answered(tenant, id)?.map(Arc::new))
            }
            known => Ok(known),
        }
    }
}

impl Prediction {
    /// What had a part in the choice beside the belief in success.
    fn details(&self, contest: &Contest, effect: Option<BudgetEffect>) -> ScoreDetails {
        ScoreDetails {
            objective: self
                .objective
                .map(|objective| Objective { scales: contest.scales, ..objective }),
            limits: self.constraints.map(|constraints| Constrained {
                constraints,
                on_infeasible: self.on_infeasible,
                on_unknown: self.on_unknown,
                feasible: contest.is_feasible(),
            }),
            budget: effect,
        }
    }
}

impl App {
    /// How the tenant's budget stands, if that has a part in the choice.
    fn budget_effect(&self, prediction: &Prediction, now_ms: i64) -> Option<BudgetEffect> {
        let tenant = &*prediction.tenant_id;
        let budget = *self.shared.budgets().get(tenant)?;
        let standing = budget.standing(self.shared.counters().spending.get(tenant), now_ms);
        let cost_weight = rounded_weight(standing.cost_weight().min(COST_WEIGHT_MAX));
        let exhausted = standing.is_exhausted();
        (exhausted || prediction.gives_weight_to_cost()).then_some(BudgetEffect {
            share_spent: standing.share_spent,
            cost_weight,
            exhausted,
        })
    }
}

/// To three digits, so that the same question has the same answer for a while.
fn rounded_weight(weight: f64) -> f64 {
    let unit = 10_f64.powf(weight.log10().floor() - 2.0);
    (weight / unit).round() * unit
}

fn left_out(contest: &Contest) -> Vec<LeftOut<'_>> {
    let left_out = contest.excluded.iter();
    left_out
        .map(|excluded| LeftOut { agent_name: &excluded.agent, reason: &excluded.reason })
        .collect()
}

fn infeasible(contest: &Contest) -> Error {
    let mut nearest: Vec<usize> = (0..contest.standings.len()).collect();
    nearest.sort_by(|a, b| contest.violations[*a].excess.total_cmp(&contest.violations[*b].excess));
    let reasons: Vec<String> = nearest
        .iter()
        .take(INFEASIBLE_SHOWN)
        .map(|place| {
            let agent = &contest.standings[*place].agent;
            format!("{agent:?}: {}", contest.violations[*place].reason)
        })
        .collect();
    let more = nearest.len().saturating_sub(INFEASIBLE_SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let detail = format!("no agent meets them: {}{more}", reasons.join("; "));
    Error::invalid("/constraints", detail)
}

/// The answer of a decision that was made before, if this is the same question.
fn repeated(known: &Decision, prediction: &Prediction) -> Answer {
    if known.request == prediction.hash() {
        return Ok(Response::json(200, known.answer.clone()));
    }
    let id = prediction.decision_id.as_deref().unwrap_or_default();
    let text = format!("decision_id {id:?} was given before, with another request");
    Err(Failure::from(Error::Conflict(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_of_before_there_were_objectives_are_the_same_questions() {
        let body = json!({"task_type": "t", "context": {"k": 1}, "seed": 7, "decision_id": "d"});
        let request = serde_json::from_value(body).unwrap();
        let Ok(prediction) = Prediction::of(request, &Caller::default()) else {
            panic!("nothing is wrong with it");
        };
        // Recorded decisions keep a hash of this.
        let expected = r#"{"tenant_id":"default","task_type":"t","context":[["k",{"Number":1.0}]],"top_k":3,"candidates":null,"exclude":[],"explore":true,"seed":7,"explain":false}"#;
        assert_eq!(serde_json::to_string(&prediction).unwrap(), expected);
    }
}
