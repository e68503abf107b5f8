//! How a route describes what it takes and answers. What all routes have in common is added by
//! [`super::openapi`].

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::{JSON, LIMIT_DEFAULT, LIMIT_MAX};
use crate::outcome::fields::Name;

/// Where the description keeps its schemas.
const SCHEMAS: &str = "/components/schemas";

/// Collects the schemas of what is read and of what is written.
pub(super) struct Schemas {
    requests: SchemaGenerator,
    pub(super) answers: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
            settings.transforms.push(Box::new(RecursiveTransform(plain_enum)));
        });
        Self {
            requests: settings.clone().for_deserialize().into_generator(),
            answers: settings.for_serialize().into_generator(),
        }
    }

    /// The schema of what is read.
    pub(super) fn asked<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    /// The schema of what is answered.
    pub(super) fn answered<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    /// All by name.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        for (name, schema) in self.requests.take_definitions(true) {
            let same = all.insert(name.clone(), schema.clone()).is_none_or(|other| other == schema);
            assert!(same, "two types are called {name}");
        }
        all.sort_keys();
        all
    }
}

/// What a route takes and answers, beside what all of them do.
pub(super) struct Operation {
    pub(super) summary: &'static str,
    /// What stands for names in the path, where it is not just any text.
    pub(super) names: Vec<(&'static str, Value)>,
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) answers: Vec<(u16, &'static str, Value)>,
    pub(super) problems: Vec<u16>,
    /// What a problem of a status may hold beside what each has.
    pub(super) special_problems: Vec<(u16, Schema)>,
    /// Another media type in which problems are told.
    pub(super) problem_media: Option<(&'static str, Value)>,
}

impl Operation {
    pub(super) fn new(summary: &'static str) -> Self {
        Self {
            summary,
            names: Vec::new(),
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
            special_problems: Vec::new(),
            problem_media: None,
        }
    }

    /// What may stand for a name in the path.
    pub(super) fn name(mut self, name: &'static str, schema: Value) -> Self {
        self.names.push((name, schema));
        self
    }

    /// The tenant of a question.
    pub(super) fn tenant(self, schemas: &mut Schemas) -> Self {
        self.query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
    }

    /// A parameter of the query. One that makes no sense is a 422.
    pub(super) fn query(mut self, name: &str, description: &str, schema: impl Into<Value>) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "description": description, "schema": schema.into(),
        }));
        self.problem(422)
    }

    /// A header field that is looked at. One that makes no sense is passed over.
    pub(super) fn header(mut self, name: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "description": description, "schema": {"type": "string"},
        }));
        self
    }

    /// The parameters of a list.
    pub(super) fn page(self, before: &str, before_schema: Value) -> Self {
        let limit = json!({
            "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT,
        });
        self.query("limit", "How many at most", limit).query("before", before, before_schema)
    }

    /// A body that must be there.
    pub(super) fn json(self, schema: impl Into<Value>) -> Self {
        self.body(json!({"required": true, "content": {JSON: {"schema": schema.into()}}}))
    }

    /// A body that may be left out.
    pub(super) fn optional_json(self, schema: impl Into<Value>) -> Self {
        let body = json!({"content": {JSON: {"schema": schema.into()}}});
        self.body(body)
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self.problem(413).problem(415).problem(422)
    }

    pub(super) fn answer(
        mut self,
        status: u16,
        description: &'static str,
        schema: impl Into<Value>,
    ) -> Self {
        let content = json!({JSON: {"schema": schema.into()}});
        self.answers.push((status, description, content));
        self
    }

    /// A 200 that is no JSON: its content by media type.
    pub(super) fn answer_of(mut self, description: &'static str, content: Value) -> Self {
        self.answers.push((200, description, content));
        self
    }

    /// An answer without content.
    pub(super) fn empty_answer(mut self, status: u16, description: &'static str) -> Self {
        self.answers.push((status, description, json!({})));
        self
    }

    /// Problems are told in another media type as well, that of the request.
    pub(super) fn problems_also_as(mut self, media: &'static str, content: Value) -> Self {
        self.problem_media = Some((media, content));
        self
    }

    /// A problem that may tell more than others of its status.
    pub(super) fn problem_of(mut self, status: u16, schema: Schema) -> Self {
        self.special_problems.push((status, schema));
        self.problem(status)
    }

    /// A problem beside those that every route has.
    pub(super) fn problem(mut self, status: u16) -> Self {
        self.problems.push(status);
        self
    }
}

/// Content that is no text.
pub(super) fn binary() -> Value {
    json!({"schema": {"type": "string", "format": "binary"}})
}

/// The id of an entry of a list.
pub(super) fn number_as_id() -> Value {
    json!({"type": "string", "pattern": "^[0-9]{1,19}$"})
}

/// As clients write it. [`super::Query::flag`] also reads `1`, `0`, the name alone and the like, but a
/// schema that says so has no type in generated clients, which then leave the whole operation out.
pub(super) fn flag() -> Value {
    json!({"type": "boolean", "default": false})
}

/// Makes one `enum` of a choice of strings whose variants have a text each. As a `oneOf` of a schema
/// for each string, which keeps the texts apart, generated clients refuse every one of them.
fn plain_enum(schema: &mut Schema) {
    let Some(variants) = schema.get("oneOf").and_then(Value::as_array) else { return };
    let mut names = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    texts.extend(schema.get("description").and_then(Value::as_str).map(str::to_owned));
    for variant in variants {
        let alone = variant.get("const").map(std::slice::from_ref);
        let several = variant.get("enum").and_then(Value::as_array).map(Vec::as_slice);
        let Some(values) = alone.or(several).filter(|values| values.iter().all(Value::is_string))
        else {
            return;
        };
        names.extend_from_slice(values);
        if let (Some(text), [Value::String(name)]) = (variant["description"].as_str(), values) {
            texts.push(format!("- `{name}`: {text}"));
        }
    }
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), names.into());
    if !texts.is_empty() {
        schema.insert("description".to_owned(), texts.join("\n").into());
    }
}
