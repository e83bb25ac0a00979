//! The network's configuration, as an engine gives it on standard input. What it asks for is done or refused:
//! nothing is ignored but what the specification leaves to the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pcpm_api::types::OnEmpty;
use pcpm_api::{duration, rates};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{Code, Error};
use crate::invocation::check_name;

/// The versions of the specification whose results can be given.
pub(crate) const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// That of what is printed before another one is known.
pub(crate) const NEWEST: &str = "1.1.0";
/// Every key that begins like this is the engine's.
const ENGINE_KEY: &str = "cni.dev/";
/// How long to wait for a slot unless the configuration says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// The longest wait: engines give up, too.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// The configuration of one network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Network {
    #[serde(default)]
    pub(crate) cni_version: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, rename = "type")]
    _plugin: String,
    /// Where the daemon listens.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) tenant: Option<String>,
    /// The key of `CNI_ARGS` whose value is the tenant; `K8S_POD_NAMESPACE`, say.
    pub(crate) tenant_from: Option<String>,
    /// The class of slots to get one of.
    pub(crate) class: Option<String>,
    /// Whether the daemon takes published ports on the host; podman wants to do that itself.
    pub(crate) reserve_ports: Option<bool>,
    pub(crate) allow: Option<Vec<String>>,
    pub(crate) deny: Option<Vec<String>>,
    rate_up: Option<String>,
    rate_down: Option<String>,
    pub(crate) on_empty: Option<OnEmpty>,
    timeout: Option<String>,
    pub(crate) dns: Option<Value>,
    #[serde(default)]
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) prev_result: Option<Value>,
    /// For plugins that understand what is in it.
    #[serde(rename = "args")]
    _args: Option<Value>,
    #[serde(rename = "capabilities")]
    _capabilities: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What the engine found for the capabilities that the configuration declares.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuntimeConfig {
    #[serde(default, deserialize_with = "in_any_case")]
    port_mappings: Vec<PortMapping>,
    #[serde(default, deserialize_with = "in_any_case")]
    bandwidth: Option<Bandwidth>,
    #[serde(default, deserialize_with = "in_any_case")]
    dns: Option<RuntimeDns>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Its keys in lower case, as those of the two below ([`in_any_case`]).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortMapping {
    #[serde(default, rename = "hostport")]
    host_port: u16,
    #[serde(default, rename = "containerport")]
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostip")]
    host_ip: String,
}

/// Bits a second; "ingress" is what the container receives. The bursts are the engine's guess at what
/// a token bucket of `tc` needs; the pool's buckets have their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bandwidth {
    #[serde(default, rename = "ingressrate")]
    ingress_rate: u64,
    #[serde(default, rename = "egressrate")]
    egress_rate: u64,
    #[serde(default, rename = "ingressburst")]
    _ingress_burst: u64,
    #[serde(default, rename = "egressburst")]
    _egress_burst: u64,
    #[serde(default, rename = "unshapedsubnets")]
    _unshaped: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeDns {
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    searches: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

/// One that a collection of garbage has to keep.
#[derive(Debug, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// What limits a container, in bits a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) up: Option<u64>,
    pub(crate) down: Option<u64>,
}

impl Network {
    /// Reads a configuration of a version that is supported.
    pub(crate) fn read(text: &[u8]) -> Result<Self, Error> {
        check_version(&version_of(text)?)?;
        let network: Self = decode(text)?;
        if network.name.is_empty() {
            return Err(Error::config("name", "missing"));
        }
        check_name(&network.name).map_err(|reason| Error::config("name", reason))?;
        Ok(network)
    }

    /// Whether all that it asks for can be done. Who takes a network back need not know: the configuration may
    /// have changed since.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_ipam()?;
        let unknown = self.others.iter().find(|(key, value)| {
            !key.starts_with(ENGINE_KEY) && key.as_str() != "ipam" && !value.is_null()
        });
        if let Some((key, value)) = unknown {
            return Err(Error::unsupported(key, value, "pcpm-cni does not know it"));
        }
        let unknown = self.runtime_config.others.iter().find(|(_, v)| asks(v));
        if let Some((key, value)) = unknown {
            let reason = "pooled networks are made before the container is known";
            return Err(Error::unsupported(
                &format!("runtimeConfig.{key}"),
                value,
                reason,
            ));
        }
        Ok(())
    }

    /// Addresses are the pool's.
    fn check_ipam(&self) -> Result<(), Error> {
        match self.others.get("ipam") {
            Some(ipam) if asks(ipam) => {
                let reason = "the pool has addresses of its own; remove ipam";
                Err(Error::unsupported("ipam", ipam, reason))
            }
            _ => Ok(()),
        }
    }

    /// How long to wait for a slot.
    pub(crate) fn wait(&self) -> Result<Duration, Error> {
        let Some(text) = &self.timeout else {
            return Ok(DEFAULT_WAIT);
        };
        let wait = duration::parse(text).map_err(|reason| Error::config("timeout", reason))?;
        if wait > LONGEST_WAIT {
            let reason = format!("{text} is more than {LONGEST_WAIT:?}");
            return Err(Error::config("timeout", reason));
        }
        Ok(wait)
    }

    /// The ports to publish, as the daemon reads them.
    pub(crate) fn publish(&self) -> Result<Vec<String>, Error> {
        let mappings = self.runtime_config.port_mappings.iter();
        // As portmap has it: without a port of the host there is nothing to publish.
        let published = mappings.filter(|mapping| mapping.host_port != 0);
        published.map(PortMapping::publish).collect()
    }

    /// What the engine wants for this container counts before what the network has for all.
    pub(crate) fn rates(&self) -> Result<Rates, Error> {
        let bandwidth = self.runtime_config.bandwidth.as_ref();
        let given = |rate: u64| (rate != 0).then_some(rate);
        let up = bandwidth.and_then(|limit| given(limit.egress_rate));
        let down = bandwidth.and_then(|limit| given(limit.ingress_rate));
        Ok(Rates {
            up: up.or(rate("rateUp", self.rate_up.as_deref())?),
            down: down.or(rate("rateDown", self.rate_down.as_deref())?),
        })
    }

    /// What the result says about name servers.
    pub(crate) fn dns(&self) -> Value {
        match &self.runtime_config.dns {
            Some(dns) => serde_json::json!({
                "nameservers": dns.servers,
                "search": dns.searches,
                "options": dns.options,
            }),
            None => self.dns.clone().unwrap_or_else(|| serde_json::json!({})),
        }
    }

    /// The tenant of a container that came with `args`.
    pub(crate) fn tenant<'a>(
        &'a self,
        args: &'a BTreeMap<String, String>,
    ) -> Result<Option<&'a str>, Error> {
        let Some(key) = &self.tenant_from else {
            return Ok(self.tenant.as_deref());
        };
        let from_args = args.get(key).map(String::as_str);
        let tenant = from_args.or(self.tenant.as_deref()).ok_or_else(|| {
            let reason = format!("CNI_ARGS has no {key}, and no tenant is configured");
            Error::config("tenantFrom", reason)
        })?;
        Ok(Some(tenant))
    }
}

impl PortMapping {
    fn publish(&self) -> Result<String, Error> {
        let refused = |reason: String| Err(Error::config("runtimeConfig.portMappings", reason));
        let protocol = self.protocol.to_ascii_lowercase();
        let protocol = match protocol.as_str() {
            "" | "tcp" => "tcp",
            "udp" => "udp",
            other => return refused(format!("{other:?} is neither tcp nor udp")),
        };
        if self.container_port == 0 {
            return refused(format!("port {} leads to no port", self.host_port));
        }
        let address = match self.host_ip.as_str() {
            // Every address of the host, of both families.
            "" | "0.0.0.0" | "::" => String::new(),
            v6 if v6.contains(':') => format!("[{v6}]:"),
            v4 => format!("{v4}:"),
        };
        Ok(format!(
            "{protocol}:{address}{}:{}",
            self.host_port, self.container_port
        ))
    }
}

fn rate(key: &str, text: Option<&str>) -> Result<Option<u64>, Error> {
    let rate = text.map(rates::parse).transpose();
    rate.map_err(|reason| Error::config(key, reason))
}

/// Whether a value says anything.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The version that a configuration is of; before all else, since it says how to read the rest.
pub(crate) fn version_of(text: &[u8]) -> Result<String, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        #[serde(default)]
        cni_version: String,
    }
    let versioned: Versioned = decode(text)?;
    Ok(versioned.cni_version)
}

fn check_version(version: &str) -> Result<(), Error> {
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    let said = match version {
        "" => "no cniVersion is given".to_owned(),
        version => format!("cniVersion {version:?} is not supported"),
    };
    let error = Error::new(Code::IncompatibleVersion, said);
    Err(error.with(format!("supported are {}", VERSIONS.join(", "))))
}

/// Reads what an engine found as Go's JSON library does, in which engines and the reference plugins are written: keys in any
/// case (containerd 1.6 says `HostPort`), and `null` is nothing.
fn in_any_case<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    match with_lowercase_keys(Value::deserialize(from)?) {
        Value::Null => Ok(T::default()),
        found => T::deserialize(found).map_err(D::Error::custom),
    }
}

fn with_lowercase_keys(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(with_lowercase_keys).collect(),
        Value::Object(values) => {
            let given = values.into_iter().filter(|(_, value)| !value.is_null());
            let lower =
                |(key, value): (String, _)| (key.to_lowercase(), with_lowercase_keys(value));
            given.map(lower).collect()
        }
        other => other,
    }
}

fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|error| {
        let msg = "the network configuration cannot be read";
        Error::new(Code::Decode, msg).with(error)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(more: Value) -> Result<Network, Error> {
        let mut network = json!({"cniVersion": "1.1.0", "name": "pool", "type": "pcpm-cni"});
        let Value::Object(more) = more else {
            unreachable!()
        };
        network.as_object_mut().unwrap().extend(more);
        let network = Network::read(network.to_string().as_bytes())?;
        network.check()?;
        Ok(network)
    }

    fn refused(more: Value) -> (Code, String) {
        let error = read(more).unwrap_err();
        (error.code, error.report(NEWEST))
    }

    #[test]
    fn what_is_not_known_is_refused_by_key_and_value() {
        for (more, said) in [
            (json!({"bridge": "cni0"}), "bridge: \\\"cni0\\\""),
            (json!({"ipMasq": true}), "ipMasq: true"),
            (json!({"mtu": 1400}), "mtu: 1400"),
            (json!({"ipam": {"type": "host-local"}}), "host-local"),
            (
                json!({"runtimeConfig": {"mac": "c2:11:22:33:44:55"}}),
                "runtimeConfig.mac",
            ),
            (
                json!({"runtimeConfig": {"ips": ["10.0.0.1/24"]}}),
                "10.0.0.1/24",
            ),
        ] {
            let (code, report) = refused(more);
            assert_eq!(code, Code::UnsupportedField, "{report}");
            assert!(report.contains(said), "{report}");
        }
    }

    #[test]
    fn what_says_nothing_is_no_wish() {
        let quiet = json!({
            "ipam": {}, "args": {"cni": {"labels": []}}, "capabilities": {"portMappings": true},
            "runtimeConfig": {"ips": [], "mac": ""}, "cni.dev/attachments": [], "dns": {},
        });
        assert!(read(quiet).is_ok());
    }

    #[test]
    fn versions_that_are_not_supported_are_told_from_what_is_no_configuration() {
        for version in ["0.1.0", "0.3.1", "1.2.0", "2.0.0", ""] {
            let (code, report) = refused(json!({"cniVersion": version}));
            assert_eq!(code, Code::IncompatibleVersion, "{report}");
        }
        for text in ["", "{", "\"1.1.0\"", "{\"cniVersion\": 1}"] {
            let error = Network::read(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::Decode, "{text}");
        }
        for name in ["", "-x", "a/b"] {
            let (code, report) = refused(json!({"name": name}));
            assert_eq!(code, Code::InvalidConfig, "{report}");
            assert!(report.contains("name"), "{report}");
        }
    }

    #[test]
    fn ports_are_published_as_they_are_mapped() {
        let network = read(json!({"runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
            {"hostPort": 443, "containerPort": 443, "hostIP": "2001:db8::1"},
            {"hostPort": 90, "containerPort": 90, "protocol": "tcp", "hostIP": "0.0.0.0"},
            {"hostPort": 0, "containerPort": 1},
        ]}}))
        .unwrap();
        let expected = [
            "tcp:8080:80",
            "udp:192.0.2.1:53:5353",
            "tcp:[2001:db8::1]:443:443",
            "tcp:90:90",
        ];
        assert_eq!(network.publish().unwrap(), expected);
        for mapping in [
            json!({"hostPort": 1, "containerPort": 1, "protocol": "sctp"}),
            json!({"hostPort": 1}),
        ] {
            let network = read(json!({"runtimeConfig": {"portMappings": [mapping]}})).unwrap();
            let error = network.publish().unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
        }
    }

    #[test]
    fn keys_are_of_any_case_and_unknown_ones_are_refused() {
        let network = read(json!({"runtimeConfig": {
            "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
            "bandwidth": {"IngressRate": 5000, "IngressBurst": 1, "EgressRate": 6000, "EgressBurst": 1},
            "dns": {"Servers": ["192.0.2.53"], "Searches": null, "Options": null},
        }}))
        .unwrap();
        assert_eq!(network.publish().unwrap(), ["tcp:8080:80"]);
        let rates = Rates {
            up: Some(6000),
            down: Some(5000),
        };
        assert_eq!(network.rates().unwrap(), rates);
        assert_eq!(network.dns()["nameservers"], json!(["192.0.2.53"]));
        let (code, report) = refused(json!({"runtimeConfig": {"portMappings": [{"port": 80}]}}));
        assert_eq!(code, Code::Decode);
        assert!(report.contains("port"), "{report}");
    }

    #[test]
    fn what_the_engine_limits_counts_before_what_the_network_does() {
        let network = read(json!({
            "rateUp": "1M", "rateDown": "2M",
            "runtimeConfig": {"bandwidth": {"ingressRate": 5000, "ingressBurst": 9, "egressRate": 0}},
        }));
        let rates = network.unwrap().rates().unwrap();
        assert_eq!(
            rates,
            Rates {
                up: Some(1_000_000),
                down: Some(5000)
            }
        );
        let wrong = read(json!({"rateUp": "fast"})).unwrap();
        assert!(wrong.rates().unwrap_err().report(NEWEST).contains("rateUp"));
    }

    #[test]
    fn the_tenant_may_be_the_pods_namespace() {
        let args = BTreeMap::from([("K8S_POD_NAMESPACE".to_owned(), "shop".to_owned())]);
        let from = json!({"tenantFrom": "K8S_POD_NAMESPACE"});
        let network = read(from.clone()).unwrap();
        assert_eq!(network.tenant(&args).unwrap(), Some("shop"));
        assert!(network.tenant(&BTreeMap::new()).is_err());
        let network = read(json!({"tenant": "rest", "tenantFrom": "K8S_POD_NAMESPACE"})).unwrap();
        assert_eq!(network.tenant(&BTreeMap::new()).unwrap(), Some("rest"));
    }

    #[test]
    fn waits_are_bounded() {
        let wait = |text: &str| read(json!({"timeout": text})).unwrap().wait();
        assert_eq!(wait("500ms").unwrap(), Duration::from_millis(500));
        assert!(wait("1h").is_err());
        assert!(wait("5").is_err());
    }
}
