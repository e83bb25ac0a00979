//! `org.varlink.service`: what a client may ask any Varlink service.

use pcpm_api::{INTERFACE, INTERFACE_NAME};
use serde::{Deserialize, Serialize};

/// The interface of this module.
pub(super) const SERVICE: &str = "org.varlink.service";

const SERVICE_INTERFACE: &str = include_str!("org.varlink.service.varlink");

/// Reply of `GetInfo`.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    vendor: &'static str,
    product: &'static str,
    version: &'static str,
    url: &'static str,
    interfaces: [&'static str; 2],
}

impl Info {
    pub(super) fn new() -> Self {
        Self {
            vendor: "PCPM",
            product: "pcpmd",
            version: env!("CARGO_PKG_VERSION"),
            url: "https://varlink.org",
            interfaces: [SERVICE, INTERFACE_NAME],
        }
    }
}

/// Parameters of `GetInterfaceDescription`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DescriptionRequest {
    interface: String,
}

/// Reply of `GetInterfaceDescription`.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    description: &'static str,
}

/// An error of the service interface.
#[derive(Debug, Serialize)]
#[serde(tag = "error", content = "parameters")]
pub(super) enum ServiceError {
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound { interface: String },
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound { method: String },
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter { parameter: String },
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},
}

/// The text of an interface.
pub(super) fn describe(request: &DescriptionRequest) -> Result<Description, ServiceError> {
    match request.interface.as_str() {
        INTERFACE_NAME => Ok(Description {
            description: INTERFACE,
        }),
        SERVICE => Ok(Description {
            description: SERVICE_INTERFACE,
        }),
        other => Err(ServiceError::InterfaceNotFound {
            interface: other.to_owned(),
        }),
    }
}
