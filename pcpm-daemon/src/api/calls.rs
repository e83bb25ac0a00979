//! Calls as they arrive, before anything is done about them.

use std::borrow::Cow;

use pcpm_api::{INTERFACE_NAME, types};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::service::{DescriptionRequest, SERVICE, ServiceError};

/// A call whose parameters are not looked at yet, so that an unknown method is told from a bad
/// parameter.
#[derive(Debug, Deserialize)]
pub(super) struct RawCall<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
}

/// A call that can be answered.
#[derive(Debug)]
pub(super) enum Call {
    Attach(types::AttachRequest),
    Detach(types::DetachRequest),
    Update(types::UpdateRequest),
    Get(types::GetRequest),
    ReportStart(types::ReportStartRequest),
    List(types::ListRequest),
    Status,
    Watch(types::WatchRequest),
    Drops(types::DropsRequest),
    Locks(types::LocksRequest),
    Drain(types::DrainRequest),
    Resize(types::ResizeRequest),
    Retire(types::RetireRequest),
    Reload,
    Doctor,
    Info,
    Description(DescriptionRequest),
}

/// For methods without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl RawCall<'_> {
    pub(super) fn parse(&self) -> Result<Call, ServiceError> {
        let (interface, method) = self.method.rsplit_once('.').unwrap_or(("", &self.method));
        match (interface, method) {
            (INTERFACE_NAME, "Attach") => self.parameters().map(Call::Attach),
            (INTERFACE_NAME, "Detach") => self.parameters().map(Call::Detach),
            (INTERFACE_NAME, "Update") => self.parameters().map(Call::Update),
            (INTERFACE_NAME, "Get") => self.parameters().map(Call::Get),
            (INTERFACE_NAME, "ReportStart") => self.parameters().map(Call::ReportStart),
            (INTERFACE_NAME, "List") => self.parameters().map(Call::List),
            (INTERFACE_NAME, "Status") => self.no_parameters(Call::Status),
            (INTERFACE_NAME, "Watch") => self.parameters().map(Call::Watch),
            (INTERFACE_NAME, "Drops") => self.parameters().map(Call::Drops),
            (INTERFACE_NAME, "Locks") => self.parameters().map(Call::Locks),
            (INTERFACE_NAME, "Drain") => self.parameters().map(Call::Drain),
            (INTERFACE_NAME, "Resize") => self.parameters().map(Call::Resize),
            (INTERFACE_NAME, "Retire") => self.parameters().map(Call::Retire),
            (INTERFACE_NAME, "Reload") => self.no_parameters(Call::Reload),
            (INTERFACE_NAME, "Doctor") => self.no_parameters(Call::Doctor),
            (SERVICE, "GetInfo") => self.no_parameters(Call::Info),
            (SERVICE, "GetInterfaceDescription") => self.parameters().map(Call::Description),
            (INTERFACE_NAME | SERVICE, _) => Err(ServiceError::MethodNotFound {
                method: self.method.to_string(),
            }),
            _ => Err(ServiceError::InterfaceNotFound {
                interface: interface.to_owned(),
            }),
        }
    }

    fn no_parameters(&self, call: Call) -> Result<Call, ServiceError> {
        self.parameters::<Nothing>().map(|_| call)
    }

    fn parameters<T: DeserializeOwned>(&self) -> Result<T, ServiceError> {
        let text = self.parameters.map_or("{}", RawValue::get);
        let text = if text == "null" { "{}" } else { text };
        // serde would take a list for the parameters in their order.
        if !text.starts_with('{') {
            return Err(ServiceError::InvalidParameter {
                parameter: "parameters".to_owned(),
            });
        }
        serde_json::from_str(text).map_err(|error| ServiceError::InvalidParameter {
            parameter: parameter_at_fault(text, &error),
        })
    }
}

/// Names the parameter that an error is about: serde quotes unknown and missing ones; for one of a
/// wrong type it gives the place where it stands.
fn parameter_at_fault(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let quoted = message.starts_with("unknown field") || message.starts_with("missing field");
    if let Some(name) = message.split('`').nth(1).filter(|_| quoted) {
        return name.to_owned();
    }
    match last_key(text, error.line(), error.column()) {
        Some(key) => key,
        None => "parameters".to_owned(),
    }
}

/// The last key of the outermost object that begins before line and column (both from 1).
fn last_key(text: &str, line: usize, column: usize) -> Option<String> {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let end = (start + column).min(text.len());
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let position = |key: &str| text[..end].find(&serde_json::to_string(key).ok()?);
    object
        .keys()
        .filter_map(|key| Some((position(key)?, key)))
        .max()
        .map(|(_, key)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Call, ServiceError> {
        serde_json::from_str::<RawCall<'_>>(text).unwrap().parse()
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        for (parameters, named) in [
            (r#"{"owner": "a", "colour": 1}"#, "colour"),
            (r#"{"tenant": "t"}"#, "owner"),
            (r#"{"owner": 5}"#, "owner"),
            (
                "{\"owner\": \"a\",\n \"timeout_ms\": \"soon\"}",
                "timeout_ms",
            ),
            (r#"{"owner": "a", "on_empty": "sometimes"}"#, "on_empty"),
            (r#"{"owner": "a", "labels": {"x": 1}}"#, "labels"),
            (r#"{"owner": "a", "timeout_ms": -1}"#, "timeout_ms"),
            (r#"["a", null]"#, "parameters"),
        ] {
            let call =
                format!(r#"{{"method": "io.pcpm.Pool.Attach", "parameters": {parameters}}}"#);
            match parse(&call) {
                Err(ServiceError::InvalidParameter { parameter }) => assert_eq!(parameter, named),
                other => panic!("{parameters}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_methods_are_told_from_unknown_interfaces() {
        let method = parse(r#"{"method": "io.pcpm.Pool.Explode"}"#);
        assert!(
            matches!(method, Err(ServiceError::MethodNotFound { .. })),
            "{method:?}"
        );
        let interface = parse(r#"{"method": "io.example.Attach"}"#);
        assert!(
            matches!(interface, Err(ServiceError::InterfaceNotFound { .. })),
            "{interface:?}"
        );
    }

    #[test]
    fn parameters_may_be_left_out_where_none_are_needed() {
        for call in [
            r#"{"method": "io.pcpm.Pool.Watch"}"#,
            r#"{"method": "io.pcpm.Pool.List", "parameters": {}}"#,
            r#"{"method": "io.pcpm.Pool.Status", "parameters": null}"#,
        ] {
            parse(call).unwrap();
        }
    }
}
