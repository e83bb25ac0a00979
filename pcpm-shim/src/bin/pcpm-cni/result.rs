//! What a container got, in the words of the specification (CNI 1.1.0, section 5).

use std::net::IpAddr;
use std::path::Path;

use pcpm_api::types::Attachment;
use serde_json::{Map, Value, json};

use crate::error::{Code, Error};

/// The version up to which addresses said of which family they were, and the one since which interfaces tell
/// their MTU.
const WITH_FAMILY: &str = "0.4.0";
const WITH_MTU: &str = "1.1.0";

/// The keys that plugins of a chain add to.
const LISTS: [&str; 3] = ["interfaces", "ips", "routes"];

/// A result in the making: what plugins before this one did.
#[derive(Debug)]
pub(crate) struct Outcome(Map<String, Value>);

impl Outcome {
    /// Goes on with what came before. An interface in the container cannot: its namespace is about to be
    /// replaced.
    pub(crate) fn after(previous: Option<&Value>) -> Result<Self, Error> {
        let mut result = match previous {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(previous)) => previous.clone(),
            Some(_) => return Err(Error::new(Code::Decode, "prevResult is no object")),
        };
        for key in LISTS {
            let list = result.entry(key).or_insert(Value::Null);
            if list.is_null() {
                *list = json!([]);
            }
            if !list.is_array() {
                let msg = format!("prevResult.{key} is no list");
                return Err(Error::new(Code::Decode, msg));
            }
        }
        let outcome = Self(result);
        match outcome.interfaces().iter().find(|all| is_inside(all)) {
            Some(lost) => {
                let reason =
                    "pcpm-cni has to come first: the container gets another namespace, without";
                Err(Error::config("prevResult", format!("{reason} {lost}")))
            }
            None => Ok(outcome),
        }
    }

    /// The result of adding `attachment` to the container at `sandbox`.
    pub(crate) fn add(
        mut self,
        version: &str,
        attachment: &Attachment,
        sandbox: &Path,
        dns: Value,
    ) -> Value {
        let index = self.interfaces().len();
        self.push("interfaces", interface(version, attachment, sandbox));
        for end in ends(attachment) {
            self.push("ips", end.ip(version, index));
            self.push("routes", end.route());
        }
        let Self(mut result) = self;
        result.insert("cniVersion".into(), version.into());
        let silent = dns.as_object().is_none_or(Map::is_empty);
        if !silent || !result.contains_key("dns") {
            result.insert("dns".into(), dns);
        }
        Value::Object(result)
    }

    fn interfaces(&self) -> &[Value] {
        self.0["interfaces"].as_array().map_or(&[], Vec::as_slice)
    }

    fn push(&mut self, key: &str, value: Value) {
        if let Some(Value::Array(list)) = self.0.get_mut(key) {
            list.push(value);
        }
    }
}

/// Whether an interface is in the container. Every namespace has its own `lo`.
fn is_inside(interface: &Value) -> bool {
    !text(interface, "sandbox").is_empty() && text(interface, "name") != "lo"
}

fn text<'a>(interface: &'a Value, key: &str) -> &'a str {
    interface.get(key).and_then(Value::as_str).unwrap_or("")
}

fn interface(version: &str, attachment: &Attachment, sandbox: &Path) -> Value {
    let mut interface = json!({
        "name": attachment.interface,
        "mac": attachment.mac,
        "sandbox": sandbox,
    });
    if version == WITH_MTU {
        interface["mtu"] = attachment.mtu.into();
    }
    interface
}

/// An address of the container, and its way out.
struct End {
    address: IpAddr,
    gateway: Option<IpAddr>,
}

fn ends(attachment: &Attachment) -> impl Iterator<Item = End> {
    let addresses = attachment.addresses.iter();
    addresses
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| {
            let gateways = attachment
                .gateways
                .iter()
                .filter_map(|text| text.parse().ok());
            let mut gateways =
                gateways.filter(|gateway: &IpAddr| gateway.is_ipv4() == address.is_ipv4());
            End {
                address,
                gateway: gateways.next(),
            }
        })
}

impl End {
    fn ip(&self, version: &str, interface: usize) -> Value {
        let (prefix, family) = match self.address {
            IpAddr::V4(_) => (32, "4"),
            IpAddr::V6(_) => (128, "6"),
        };
        let mut ip = json!({
            "address": format!("{}/{prefix}", self.address),
            "interface": interface,
        });
        if let Some(gateway) = self.gateway {
            ip["gateway"] = gateway.to_string().into();
        }
        if version == WITH_FAMILY {
            ip["version"] = family.into();
        }
        ip
    }

    fn route(&self) -> Value {
        let everything = match self.address {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        };
        match self.gateway {
            Some(gateway) => json!({"dst": everything, "gw": gateway.to_string()}),
            None => json!({"dst": everything}),
        }
    }
}

/// Whether `previous`, the result that the engine kept, is still true of `attachment` at `sandbox`: everything
/// that it says of this interface. Other plugins may have added to it.
pub(crate) fn check(
    previous: &Value,
    attachment: &Attachment,
    sandbox: &Path,
) -> Result<(), Error> {
    let index = position(previous, attachment, sandbox)?;
    let ips = previous.get("ips").and_then(Value::as_array);
    let ours = ips.into_iter().flatten();
    let ours = ours.filter(|ip| ip.get("interface").and_then(Value::as_u64) == Some(index));
    let expected: Vec<_> = ours
        .filter_map(|ip| ip.get("address")?.as_str())
        .filter_map(|address| address.split('/').next())
        .collect();
    let missing = expected
        .iter()
        .find(|address| !attachment.addresses.iter().any(|own| own == **address));
    match missing {
        Some(address) => Err(gone(&format!("the address {address}"))),
        None if expected.is_empty() => Err(gone("any address in prevResult")),
        None => Ok(()),
    }
}

/// Where `previous` has the interface.
fn position(previous: &Value, attachment: &Attachment, sandbox: &Path) -> Result<u64, Error> {
    let interfaces = previous.get("interfaces").and_then(Value::as_array);
    let mut named = interfaces.into_iter().flatten().zip(0..);
    let found = named.find(|(interface, _)| {
        text(interface, "name") == attachment.interface
            && Path::new(text(interface, "sandbox")) == sandbox
    });
    let Some((interface, index)) = found else {
        let reason = format!("has no interface {} in the container", attachment.interface);
        return Err(Error::config("prevResult", reason));
    };
    let mac = text(interface, "mac");
    if !mac.is_empty() && !mac.eq_ignore_ascii_case(&attachment.mac) {
        return Err(gone(&format!("the hardware address {mac}")));
    }
    Ok(index)
}

fn gone(what: &str) -> Error {
    Error::new(Code::Failed, format!("the container does not have {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SANDBOX: &str = "/run/netns/c1";

    fn attachment() -> Attachment {
        let attachment = json!({
            "id": "1-1", "owner": "c1", "tenant": "default", "slot": "s0007", "epoch": 1,
            "netns": "/run/pcpm/netns/s0007", "interface": "eth0",
            "addresses": ["10.213.0.7", "fd00::7"], "gateways": ["169.254.1.1", "fe80::1"],
            "mac": "02:00:00:00:00:07", "mtu": 1500, "publish": [], "allow": [], "deny": [],
            "labels": {}, "lease": "explicit", "source": "warm", "took_us": 1,
            "attached_at_ms": 1, "uid": 0,
        });
        serde_json::from_value(attachment).unwrap()
    }

    fn added(version: &str, previous: Option<&Value>) -> Value {
        let outcome = Outcome::after(previous).unwrap();
        outcome.add(version, &attachment(), Path::new(SANDBOX), json!({}))
    }

    #[test]
    fn a_result_says_what_the_container_got() {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "eth0", "mac": "02:00:00:00:00:07", "mtu": 1500, "sandbox": SANDBOX},
            ],
            "ips": [
                {"address": "10.213.0.7/32", "gateway": "169.254.1.1", "interface": 0},
                {"address": "fd00::7/128", "gateway": "fe80::1", "interface": 0},
            ],
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                {"dst": "::/0", "gw": "fe80::1"},
            ],
            "dns": {},
        });
        assert_eq!(added("1.1.0", None), expected);
    }

    #[test]
    fn each_version_has_its_own_keys() {
        let old = added("0.4.0", None);
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        let newer = added("1.0.0", None);
        assert!(newer["ips"][0].get("version").is_none());
        assert!(newer["interfaces"][0].get("mtu").is_none());
    }

    #[test]
    fn what_came_before_stays_and_indices_go_on_behind_it() {
        let previous = json!({
            "interfaces": [{"name": "lo", "sandbox": SANDBOX}, {"name": "host0"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        let result = added("1.1.0", Some(&previous));
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"], previous["dns"]);
    }

    #[test]
    fn nothing_in_the_container_is_lost_silently() {
        let previous = json!({"interfaces": [{"name": "net1", "sandbox": SANDBOX}]});
        let error = Outcome::after(Some(&previous)).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig);
        assert!(error.report("1.1.0").contains("net1"));
        for nonsense in [json!(1), json!({"ips": 1}), json!({"interfaces": {}})] {
            let error = Outcome::after(Some(&nonsense)).unwrap_err();
            assert_eq!(error.code, Code::Decode);
        }
    }

    #[test]
    fn what_was_added_is_found_again() {
        let sandbox = Path::new(SANDBOX);
        let result = added("1.1.0", None);
        check(&result, &attachment(), sandbox).unwrap();
        let mut more = result.clone();
        more["routes"] = json!([{"dst": "192.0.2.0/24"}]);
        check(&more, &attachment(), sandbox).unwrap();

        let with = |change: fn(&mut Value)| {
            let mut changed = result.clone();
            change(&mut changed);
            changed
        };
        for wrong in [
            with(|r| r["ips"][0]["address"] = "10.213.0.8/32".into()),
            with(|r| r["ips"] = json!([])),
            with(|r| r["interfaces"][0]["mac"] = "02:00:00:00:00:08".into()),
            with(|r| r["interfaces"][0]["sandbox"] = "/run/netns/c2".into()),
            with(|r| r["interfaces"] = json!([])),
            json!(null),
        ] {
            assert!(check(&wrong, &attachment(), sandbox).is_err(), "{wrong}");
        }
    }
}
