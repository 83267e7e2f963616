//! What a path of the operator API is: declared once, from which the router, the rights and the `OpenAPI` document follow.
//!
//! Each topic lists its [`Route`]s beside their handlers. Rejected: a document kept by hand, which is wrong by the second change, and a
//! framework of attribute macros, which would be the largest dependency of the program for fifty lines of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::access::{self, Role};
use super::operator::EPOCH;
use crate::control::Balancer;

/// Where everything below is mounted.
pub(super) const PREFIX: &str = "/api/v1";
/// The largest body most paths have a use for is a few hundred bytes.
const BODY_BYTES_MAX: usize = 16 * 1_024;

type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// A path and method, what it takes and what it answers.
pub(crate) struct Route {
    method: Method,
    path: &'static str,
    summary: &'static str,
    role: Role,
    query: Option<MakeSchema>,
    request: Option<(&'static str, MakeSchema)>,
    answer: (u16, &'static str, Option<MakeSchema>),
    body_bytes_max: usize,
    handler: MethodRouter<Arc<Balancer>>,
}

impl Route {
    fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        let role = if method == Method::GET { Role::Read } else { Role::Operate };
        Self {
            method,
            path,
            summary,
            role,
            query: None,
            request: None,
            answer: (200, JSON, None),
            body_bytes_max: BODY_BYTES_MAX,
            handler: MethodRouter::new(),
        }
    }

    /// Something that is shown.
    pub(crate) fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, path, summary)
    }

    /// Something that is done or added.
    pub(crate) fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::POST, path, summary)
    }

    /// Something of which parts are set.
    pub(crate) fn patch(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::PATCH, path, summary)
    }

    /// Something that is taken away or ended.
    pub(crate) fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::DELETE, path, summary)
    }

    /// It changes nothing, in spite of its method.
    pub(crate) fn reads(mut self) -> Self {
        self.role = Role::Read;
        self
    }

    /// The parameters after the question mark are the fields of `T`.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// The body is a `T` in JSON.
    pub(crate) fn takes<T: JsonSchema>(mut self) -> Self {
        self.request = Some((JSON, SchemaGenerator::subschema_for::<T>));
        self
    }

    /// The body is text of this media type.
    pub(crate) fn takes_text(mut self, media: &'static str) -> Self {
        self.request = Some((media, SchemaGenerator::subschema_for::<String>));
        self
    }

    /// The body may be this long.
    pub(crate) fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// The answer is a `T` in JSON with this status.
    pub(crate) fn answers<T: JsonSchema>(mut self, status: u16) -> Self {
        self.answer = (status, JSON, Some(SchemaGenerator::subschema_for::<T>));
        self
    }

    /// The answer has no body.
    pub(crate) fn answers_nothing(mut self, status: u16) -> Self {
        self.answer = (status, JSON, None);
        self
    }

    /// Who answers.
    pub(crate) fn to<H, T>(mut self, handler: H) -> Self
    where
        H: Handler<T, Arc<Balancer>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(self.method.clone()).expect("a usual method");
        self.handler = on(filter, handler);
        self
    }

    fn is_change(&self) -> bool {
        self.role > Role::Read
    }

    fn mount(self, router: Router<Arc<Balancer>>) -> Router<Arc<Balancer>> {
        let role = self.role;
        let handler = self
            .handler
            .layer(DefaultBodyLimit::max(self.body_bytes_max))
            .layer(from_fn(move |request, next| access::require(role, request, next)));
        router.route(self.path, handler)
    }

    /// The operation as `OpenAPI` has it.
    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut parameters: Vec<Value> = path_parameters(self.path)
            .map(|name| {
                let schema = json!({ "type": "string" });
                json!({ "name": name, "in": "path", "required": true, "schema": schema })
            })
            .collect();
        if let Some(query) = self.query {
            parameters.extend(query_parameters(&query(generator)));
        }
        if self.is_change() {
            parameters.push(json!({ "$ref": "#/components/parameters/Epoch" }));
            parameters.push(json!({ "$ref": "#/components/parameters/IfMatch" }));
        }
        let (status, media, body) = self.answer;
        let mut answer = json!({ "description": "Done", "headers": { "ETag": {
            "$ref": "#/components/headers/Version"
        } } });
        if let Some(body) = body {
            answer["content"] = json!({ media: { "schema": body(generator) } });
        }
        let mut responses = Map::new();
        responses.insert(status.to_string(), answer);
        let error = json!({ "$ref": "#/components/responses/Error" });
        let statuses: &[&str] = if self.is_change() { &["409", "412"] } else { &[] };
        for status in statuses.iter().chain(&["default"]) {
            responses.insert((*status).to_owned(), error.clone());
        }
        let mut operation = json!({
            "operationId": self.operation_id(),
            "summary": self.summary,
            "x-role": self.role.as_str(),
            "parameters": parameters,
            "responses": responses,
        });
        if let Some((media, body)) = self.request {
            let content = json!({ media: { "schema": body(generator) } });
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        operation
    }

    fn operation_id(&self) -> String {
        let words = self.path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
        let method = self.method.as_str().to_ascii_lowercase();
        std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
    }
}

const JSON: &str = "application/json";

/// All routes as one router, relative to [`PREFIX`].
pub(super) fn router(routes: Vec<Route>) -> Router<Arc<Balancer>> {
    routes.into_iter().fold(Router::new(), |router, route| route.mount(router))
}

/// The `OpenAPI` 3.1 document of `routes`.
pub(super) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = route.describe(&mut generator);
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast balancer: operator API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": PREFIX }],
        "security": [{ "token": [] }, { "certificate": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "certificate": { "type": "mutualTLS" },
            },
            "headers": { "Version": {
                "description": "What operators can change has this version",
                "schema": { "type": "string" },
            } },
            "parameters": {
                "Epoch": {
                    "name": EPOCH, "in": "header",
                    "description": "Refused with 409 if a higher one was seen",
                    "schema": { "type": "integer", "minimum": 0 },
                },
                "IfMatch": {
                    "name": "If-Match", "in": "header",
                    "description": "Refused with 412 unless the version is one of these",
                    "schema": { "type": "string" },
                },
            },
            "responses": { "Error": {
                "description": "Nothing was changed",
                "content": { JSON: { "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": { "type": "string" },
                        "faults": { "type": "array", "items": { "type": "string" } },
                    },
                } } },
            } },
        },
    })
}

fn path_parameters(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The fields of a struct as parameters.
fn query_parameters(schema: &Schema) -> Vec<Value> {
    let fields = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let one = |(name, field): (&String, &Value)| {
        let required = required.is_some_and(|names| names.iter().any(|each| each == name));
        json!({ "name": name, "in": "query", "required": required, "schema": field })
    };
    fields.into_iter().flatten().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_described_with_what_it_takes() {
        #[derive(JsonSchema)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct Query {
            /// How many.
            limit: Option<u32>,
        }
        let routes = [
            Route::get("/things/{thing}", "A thing").query::<Query>().answers::<Vec<u8>>(200),
            Route::delete("/things/{thing}", "No more of it").answers_nothing(204),
        ];
        let document = document(&routes);
        let get = &document["paths"]["/things/{thing}"]["get"];
        assert_eq!(get["operationId"], "get_things_thing");
        assert_eq!(get["x-role"], "read");
        assert_eq!(get["parameters"][0]["in"], "path");
        assert_eq!(get["parameters"][1]["name"], "limit");
        let delete = &document["paths"]["/things/{thing}"]["delete"];
        assert_eq!(delete["x-role"], "operate");
        assert!(delete["responses"]["412"].is_object() && delete["responses"]["204"].is_object());
    }
}
