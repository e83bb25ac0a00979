//! The envelope of Varlink: what a call looks like, and which of the three kinds of answer a reply is.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ServiceError;
use crate::error::PoolError;

/// How many replies a call is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    None,
    One,
    Many,
}

#[derive(Serialize)]
pub(super) struct Call<'a, P> {
    pub(super) method: &'a str,
    pub(super) parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) more: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) oneway: bool,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    continues: Option<bool>,
    #[serde(default)]
    error: Option<String>,
}

/// An answer other than a result.
pub(super) enum Refusal {
    Pool(PoolError),
    Service(ServiceError),
    /// Not an answer at all; the text says why.
    Nonsense(String),
}

/// Reads a reply: its result, and whether more of them follow.
pub(super) fn read_reply<R: DeserializeOwned>(message: &[u8]) -> Result<(R, bool), Refusal> {
    let reply: Reply = serde_json::from_slice(message)
        .map_err(|e| Refusal::Nonsense(format!("not a Varlink reply: {e}")))?;
    let parameters = reply.parameters.map_or("{}", RawValue::get);
    if let Some(error) = reply.error {
        return Err(read_error(&error, parameters));
    }
    let result = serde_json::from_str(parameters)
        .map_err(|e| Refusal::Nonsense(format!("not the reply that was agreed: {e}")))?;
    Ok((result, reply.continues.unwrap_or(false)))
}

fn read_error(name: &str, parameters: &str) -> Refusal {
    let tagged = format!(r#"{{"error":{},"parameters":{parameters}}}"#, quoted(name));
    if name.starts_with("org.varlink.service.") {
        return serde_json::from_str(&tagged).map_or_else(|e| unknown(name, &e), Refusal::Service);
    }
    serde_json::from_str(&tagged).map_or_else(|e| unknown(name, &e), Refusal::Pool)
}

fn unknown(name: &str, why: &serde_json::Error) -> Refusal {
    Refusal::Nonsense(format!("error {name}, which is not understood: {why}"))
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}
