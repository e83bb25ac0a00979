//! Published ports as they are written: `[tcp:|udp:][HOSTADDR:]HOSTPORT:PORT`. HOSTADDR is an IPv4
//! address, or an IPv6 address in brackets; without one the port answers on every address of the
//! host. Both ports may be ranges of the same length, `8000-8010:80-90`. Without a protocol it is TCP.
//!
//! ```
//! use pcpm_api::publish::Publish;
//!
//! let web: Publish = "8080:80".parse()?;
//! assert_eq!(web.to_string(), "tcp:8080:80");
//! let dns: Publish = "udp:[2001:db8::1]:53:5353".parse()?;
//! assert_eq!(dns.ports().count(), 1);
//! # Ok::<(), String>(())
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::PoolError;
use crate::limits;
use crate::ports::PortRange;
use crate::types::PublishedPort;

/// Most ports that one attachment may publish, those of ranges counted one by one.
pub const PORTS: usize = 1024;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol's number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One port of the host that leads to one port of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The protocol.
    pub transport: Transport,
    /// The host's address, `None` for all of them.
    pub host_address: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The slot's port.
    pub port: u16,
}

impl Port {
    /// Whether both take the same port of the host, on an address at least.
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = (self.host_address, other.host_address);
        let address = match addresses {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        address && self.transport == other.transport && self.host_port == other.host_port
    }
}

/// As [`Publish`] with a single port.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Publish::from(*self).fmt(f)
    }
}

impl From<Port> for PublishedPort {
    fn from(port: Port) -> Self {
        Self {
            protocol: port.transport.as_str().into(),
            host_address: port.host_address.map(|address| address.to_string()),
            host_port: port.host_port,
            port: port.port,
        }
    }
}

/// What one option publishes: a port, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Publish {
    transport: Transport,
    host_address: Option<IpAddr>,
    host_ports: PortRange,
    ports: PortRange,
}

impl Publish {
    /// The ports one by one.
    pub fn ports(self) -> impl Iterator<Item = Port> {
        let pairs = self.host_ports.iter().zip(self.ports.iter());
        pairs.map(move |(host_port, port)| Port {
            transport: self.transport,
            host_address: self.host_address,
            host_port,
            port,
        })
    }
}

impl From<Port> for Publish {
    fn from(port: Port) -> Self {
        Self {
            transport: port.transport,
            host_address: port.host_address,
            host_ports: port.host_port.into(),
            ports: port.port.into(),
        }
    }
}

/// The one way of writing it; parsing it gives the same value.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.transport)?;
        match self.host_address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host_ports, self.ports)
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            Some(("udp", rest)) => (Transport::Udp, rest),
            _ => (Transport::Tcp, text),
        };
        let (front, ports) = rest.rsplit_once(':').ok_or_else(|| no_mapping(text))?;
        let (host_address, host_ports) = match front.rsplit_once(':') {
            Some((address, ports)) => (Some(host_address(address)?), ports),
            None => (None, front),
        };
        let (host_ports, ports): (PortRange, PortRange) = (host_ports.parse()?, ports.parse()?);
        if host_ports.len() != ports.len() {
            return Err(format!(
                "{host_ports} are {} ports, {ports} are {}",
                host_ports.len(),
                ports.len()
            ));
        }
        Ok(Self {
            transport,
            host_address,
            host_ports,
            ports,
        })
    }
}

/// Ports of an attachment, ascending.
///
/// # Errors
/// [`PoolError::InvalidArgument`] naming `publish`: what is no mapping, more than [`PORTS`], and a
/// port of the host that is named twice.
pub fn parse_all(texts: &[String]) -> Result<Vec<Port>, PoolError> {
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        let publish: Publish = limits::parse_text("publish", text)?;
        if all.len() + publish.host_ports.len() > PORTS {
            let reason = format!("more than {PORTS} ports");
            return Err(PoolError::invalid("publish", reason));
        }
        all.extend(publish.ports());
    }
    all.sort_unstable();
    match twice(&all) {
        Some((one, other)) => Err(PoolError::invalid(
            "publish",
            format!("{one} and {other} take the same port of the host"),
        )),
        None => Ok(all),
    }
}

/// Ascending ports written as briefly as possible: neighbours become ranges.
pub fn collapse(ports: &[Port]) -> Vec<Publish> {
    let mut all: Vec<Publish> = Vec::new();
    for &port in ports {
        match all.last_mut() {
            Some(last) if last.is_followed_by(&port) => {
                last.host_ports.last = port.host_port;
                last.ports.last = port.port;
            }
            _ => all.push(port.into()),
        }
    }
    all
}

impl Publish {
    fn is_followed_by(&self, port: &Port) -> bool {
        self.transport == port.transport
            && self.host_address == port.host_address
            && self.host_ports.last.checked_add(1) == Some(port.host_port)
            && self.ports.last.checked_add(1) == Some(port.port)
    }
}

/// Two ports that take the same one of the host. In this order what overlaps has a neighbour that
/// does: every address comes before the single ones.
fn twice(ports: &[Port]) -> Option<(Port, Port)> {
    let mut by_host = ports.to_vec();
    by_host.sort_unstable_by_key(|port| (port.transport, port.host_port, port.host_address));
    let mut neighbours = by_host.windows(2).map(|pair| (pair[0], pair[1]));
    neighbours.find(|(one, other)| one.overlaps(other))
}

fn no_mapping(text: &str) -> String {
    match text {
        "" => "must not be empty".into(),
        _ => "not HOSTPORT:PORT, such as 8080:80 or udp:192.0.2.1:53:53".into(),
    }
}

fn host_address(text: &str) -> Result<IpAddr, String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address: Option<IpAddr> = match inner {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    let Some(address) = address else {
        return Err(match text.parse() {
            Ok(IpAddr::V6(v6)) => format!("write the address as [{v6}]"),
            _ => format!("{text:?} is not an address of the host"),
        });
    };
    if address.is_unspecified() {
        return Err(format!(
            "leave {address} out to publish on every address of the host"
        ));
    }
    let unusable = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_multicast(),
        IpAddr::V6(v6) => {
            v6.is_multicast() || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some()
        }
    };
    if unusable {
        return Err(format!(
            "{address} cannot be the address of a published port"
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.into()).collect()
    }

    fn refusal(all: &[&str]) -> String {
        let error = parse_all(&texts(all)).unwrap_err().to_string();
        let reason = error.strip_prefix("publish: ").expect(&error);
        reason.to_owned()
    }

    #[test]
    fn every_way_of_publishing_is_understood() {
        for (text, canonical) in [
            ("8080:80", "tcp:8080:80"),
            ("tcp:8080:80", "tcp:8080:80"),
            ("udp:53:5353", "udp:53:5353"),
            ("192.0.2.1:8080:80", "tcp:192.0.2.1:8080:80"),
            ("udp:127.0.0.1:53:53", "udp:127.0.0.1:53:53"),
            ("[2001:DB8::1]:443:8443", "tcp:[2001:db8::1]:443:8443"),
            ("udp:[::1]:53:53", "udp:[::1]:53:53"),
            ("8000-8010:80-90", "tcp:8000-8010:80-90"),
            ("8000-8000:80", "tcp:8000:80"),
        ] {
            let publish: Publish = text.parse().expect(text);
            assert_eq!(publish.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_range_leads_port_by_port() {
        let publish: Publish = "udp:8000-8002:80-82".parse().unwrap();
        let pairs: Vec<_> = publish.ports().map(|p| (p.host_port, p.port)).collect();
        assert_eq!(pairs, [(8000, 80), (8001, 81), (8002, 82)]);
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "must not be empty"),
            ("80", "not HOSTPORT:PORT"),
            ("sctp:80:80", "\"sctp\" is not an address"),
            ("0:80", "\"0\" is not a port"),
            ("80:65536", "\"65536\" is not a port"),
            ("80:+1", "\"+1\" is not a port"),
            ("80:", "\"\" is not a port"),
            ("tcp:80", "not HOSTPORT:PORT"),
            ("90-80:1-2", "90-80 ends before it begins"),
            ("8000-8010:80-89", "8000-8010 are 11 ports, 80-89 are 10"),
            ("2001:db8::1:80:80", "write the address as [2001:db8::1]"),
            ("[192.0.2.1]:80:80", "\"[192.0.2.1]\" is not an address"),
            ("0.0.0.0:80:80", "leave 0.0.0.0 out"),
            ("[::]:80:80", "leave :: out"),
            ("224.0.0.1:80:80", "224.0.0.1 cannot be"),
            ("[fe80::1]:80:80", "fe80::1 cannot be"),
            ("[::ffff:192.0.2.1]:80:80", "cannot be"),
        ] {
            let refused = refusal(&[text]);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }

    #[test]
    fn a_port_of_the_host_leads_to_one_place() {
        for both in [
            ["80:80", "80:80"],
            ["80:80", "80:81"],
            ["80:80", "192.0.2.1:80:80"],
            ["[::1]:70-90:70-90", "80:1"],
        ] {
            let refused = refusal(&both);
            assert!(refused.contains("the same port of the host"), "{refused}");
        }
        let fine = ["80:80", "udp:80:80", "192.0.2.1:81:80", "192.0.2.2:81:80"];
        assert_eq!(parse_all(&texts(&fine)).unwrap().len(), 4);
    }

    #[test]
    fn the_number_of_ports_is_bounded() {
        assert_eq!(parse_all(&texts(&["1-1024:1-1024"])).unwrap().len(), PORTS);
        let refused = refusal(&["1-1024:1-1024", "udp:1:1"]);
        assert_eq!(refused, "more than 1024 ports");
    }

    #[test]
    fn a_hostile_text_is_not_repeated_at_length() {
        let refused = refusal(&[&"x".repeat(60_000)]);
        assert!(refused.len() < 100, "{refused}");
    }

    prop_compose! {
        fn any_port()(
            udp in any::<bool>(),
            host_address in proptest::option::of(any::<IpAddr>()),
            host_port in 1..=u16::MAX,
            port in 1..=u16::MAX,
        ) -> Port {
            Port {
                transport: if udp { Transport::Udp } else { Transport::Tcp },
                host_address,
                host_port,
                port,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(port in any_port()) {
            if let Ok(back) = port.to_string().parse::<Publish>() {
                prop_assert_eq!(back.ports().collect::<Vec<_>>(), [port]);
            } else {
                prop_assert!(port.host_address.is_some());
            }
        }

        #[test]
        fn ranges_are_made_of_ports_without_loss(
            mut ports in proptest::collection::vec((1_u16..60, 1_u16..60), 0..60)
        ) {
            ports.sort_unstable();
            ports.dedup_by_key(|pair| pair.0);
            let ports: Vec<_> = ports.into_iter().map(|(host_port, port)| Port {
                transport: Transport::Tcp,
                host_address: None,
                host_port,
                port,
            }).collect();
            let back: Vec<_> = collapse(&ports).into_iter().flat_map(Publish::ports).collect();
            prop_assert_eq!(back, ports);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[tcpud:0-9.\\[\\]a-f-]{0,40}") {
            if let Ok(publish) = text.parse::<Publish>() {
                let shown = publish.to_string();
                prop_assert_eq!(shown.parse::<Publish>(), Ok(publish));
            }
        }
    }
}
