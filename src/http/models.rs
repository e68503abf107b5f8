//! Models and their saved versions.

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::outcome::fields::Name;

use super::access::{Need, Scope};
use super::answers::{MadeVersion, ModelSummary, PerformanceSummary, Versions};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::Request;
use super::{
    Answer, App, JSON, Query, json_body, json_object, json_response, media_type, page,
    unsupported_media_type,
};
use crate::error::{Error, Result};
use crate::learner::{Event, MODEL_TYPES, SavedVersion};
use crate::model::AgentPerformanceModel;
use crate::outcome::format_time;
use crate::store::{ModelVersion, parse_model};

/// Largest model that comes over HTTP, in bytes. A larger one is imported into the directory.
const MODEL_BYTES_MAX: usize = 24 * 1024 * 1024;

/// The digest of the newest snapshot, once it was asked for.
#[derive(Default)]
pub(super) struct Digests(Mutex<Option<(u64, String)>>);

impl Digests {
    /// The lock is held while the digest is worked out, so that many who ask wait for one.
    fn of(&self, model: &AgentPerformanceModel) -> String {
        let mut known = self.0.lock();
        match &*known {
            Some((sequence, digest)) if *sequence == model.sequence() => digest.clone(),
            _ => {
                let digest = model.digest();
                *known = Some((model.sequence(), digest.clone()));
                digest
            }
        }
    }
}

fn known_type(model_type: &str) -> Result<()> {
    if MODEL_TYPES.contains(&model_type) {
        return Ok(());
    }
    let known = MODEL_TYPES.join(", ");
    Err(Error::NotFound(format!("there is no model type {model_type:?}, only {known}")))
}

pub(super) const SAVE: Route = Route {
    method: "POST",
    pattern: "/api/learning/models/save",
    id: "saveModels",
    tag: Tag::Models,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.save_models(call.request),
    describe: |schemas| {
        Operation::new("Save a version now").optional_json(json!({"type": "object"})).answer(
            200,
            "It is saved",
            schemas.answered::<MadeVersion>(),
        )
    },
};

pub(super) const MODEL: Route = Route {
    method: "GET",
    pattern: "/api/learning/models/{model_type}",
    id: "getModel",
    tag: Tag::Models,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.model(&call.names[0]),
    describe: |schemas| {
        Operation::new("What a model has learned, in short")
            .name("model_type", model_types())
            .answer(200, "The summary", schemas.answered::<ModelSummary>())
    },
};

pub(super) const VERSIONS: Route = Route {
    method: "GET",
    pattern: "/api/learning/models/{model_type}/versions",
    id: "listVersions",
    tag: Tag::Models,
    need: Need::AllTenants(Scope::Read),
    handler: |app, call| app.versions(&call.names[0], call.request),
    describe: |schemas| {
        Operation::new("The saved versions of a model, newest first")
            .name("model_type", model_types())
            .page("Only versions older than this one", json!(schemas.asked::<Name>()))
            .answer(200, "A page", schemas.answered::<Versions>())
    },
};

pub(super) const ACTIVATE: Route = Route {
    method: "POST",
    pattern: "/api/learning/models/{model_type}/versions/{id}/activate",
    id: "activateVersion",
    tag: Tag::Models,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.activate(&call.names[0], &call.names[1], call.request),
    describe: |schemas| {
        Operation::new("Go on from the state of a saved version")
            .name("model_type", model_types())
            .optional_json(json!({"type": "object"}))
            .answer(200, "It is active", schemas.answered::<MadeVersion>())
            .problem(409)
    },
};

pub(super) const IMPORT: Route = Route {
    method: "POST",
    pattern: "/api/learning/models/import",
    id: "importModel",
    tag: Tag::Models,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.import_model(call.request),
    describe: |schemas| {
        let model =
            json!({"type": "object", "description": "As `online-learning export` writes it"});
        Operation::new("Make an exported model the active version").json(model).answer(
            200,
            "It is active",
            schemas.answered::<MadeVersion>(),
        )
    },
};

/// What may stand for a model type in a path.
fn model_types() -> Value {
    json!({"type": "string", "enum": MODEL_TYPES})
}

impl App {
    pub(super) fn model(&self, model_type: &str) -> Answer {
        known_type(model_type)?;
        let model = self.shared.model();
        let counters = self.shared.counters();
        let agents: usize = model.tenants().map(|(_, tenant)| tenant.agents().len()).sum();
        let patterns: usize = model.tenants().map(|(_, tenant)| tenant.task_types().len()).sum();
        let last_update = counters.last_update_ms;
        // Every save has a row of each type, but those of older programs.
        let active_version = match self.shared.active_version() {
            Some(id) if model_type != MODEL_TYPES[0] => {
                let number = self.reader.version(&id)?.map_or(0, |version| version.version_number);
                let row = self.reader.version(&ModelVersion::id_of(model_type, number))?;
                row.map(|version| version.id)
            }
            selection => selection,
        };
        let body = ModelSummary {
            model_type: model_type.to_owned(),
            update_count: counters.total_updates(),
            last_update: (last_update > 0).then(|| format_time(last_update)),
            performance_summary: PerformanceSummary {
                total_agents: agents,
                task_patterns: patterns,
                tenants: model.tenants().len(),
                cells: model.cells(),
                model_score: model.score().current(),
                improvement_rate: model.score().improvement_rate(),
            },
            strategy: model.settings().strategy.as_str(),
            active_version,
            learned_sequence: model.sequence(),
            digest: self.digests.of(&model),
        };
        Ok(json_response(200, &body))
    }

    pub(super) fn versions(&self, model_type: &str, request: &Request<'_>) -> Answer {
        known_type(model_type)?;
        let query = Query::of(request);
        let limit = query.limit()?;
        let before = match query.get("before") {
            None => None,
            Some(id) => Some(self.known_version(id)?.version_number),
        };
        let versions = self.reader.versions(model_type, before, limit + 1)?;
        let (versions, next_before) = page(versions, limit, |last| last.id.clone());
        Ok(json_response(200, &Versions { versions, next_before }))
    }

    pub(super) fn save_models(&self, request: &mut Request<'_>) -> Answer {
        json_object(json_body(request)?.as_deref())?;
        let saved = self.inbox.ask(Event::Save)?;
        Ok(json_response(200, &made_version("saved", saved)))
    }

    pub(super) fn activate(&self, model_type: &str, id: &str, request: &mut Request<'_>) -> Answer {
        known_type(model_type)?;
        json_object(json_body(request)?.as_deref())?;
        if self.known_version(id)?.model_type != model_type {
            let text = format!("there is no version {id:?} of {model_type}");
            return Err(Error::NotFound(text).into());
        }
        let version_id = id.to_owned();
        let made = self.inbox.ask(|reply| Event::Activate { version_id, reply })?;
        Ok(json_response(200, &made_version(&format!("{id} is active again as"), made)))
    }

    pub(super) fn import_model(&self, request: &mut Request<'_>) -> Answer {
        let media = media_type(request);
        if media != JSON {
            return Err(unsupported_media_type(&media, JSON));
        }
        let body = request.read_body(MODEL_BYTES_MAX)?;
        let (model, _) = parse_model(&body, self.options.learner.settings)?;
        drop(body);
        let model = Box::new(model);
        let made = self.inbox.ask(|reply| Event::ImportModel { model, reply })?;
        Ok(json_response(200, &made_version("imported as", made)))
    }

    fn known_version(&self, id: &str) -> Result<ModelVersion> {
        self.reader
            .version(id)?
            .ok_or_else(|| Error::NotFound(format!("there is no version {id:?}")))
    }
}

fn made_version(what: &str, version: SavedVersion) -> MadeVersion {
    let SavedVersion { version_id, version_number, training_samples } = version;
    MadeVersion {
        status: "success",
        message: format!("{what} {version_id}, {training_samples} outcomes learned"),
        version_id,
        version_number,
    }
}
