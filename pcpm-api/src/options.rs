//! What an attachment has beside its slot: published ports, rules, limits. All of it may change while
//! the attachment lives.

use serde::{Deserialize, Serialize};

use crate::error::PoolError;
use crate::publish::{self, Port, Publish};
use crate::rates::{Rate, check_bits, check_packets};
use crate::rules::{self, Rule, Rules};
use crate::types::{AttachRequest, UpdateRequest};

/// Checked options. Two requests for the same have equal ones, in whatever order they name it.
///
/// As text they are what a request has that changes none to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts", into = "Texts")]
pub struct Options {
    /// Ports of the host that lead to the slot, ascending.
    pub publish: Vec<Port>,
    /// Whether the daemon keeps those ports from other programs of the host; if not, whoever attached does.
    pub reserve_ports: bool,
    /// Whom the slot may reach.
    pub rules: Rules,
    /// What the slot may send.
    pub up: Rate,
    /// What may be sent to the slot.
    pub down: Rate,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            publish: Vec::new(),
            reserve_ports: true,
            rules: Rules::default(),
            up: Rate::default(),
            down: Rate::default(),
        }
    }
}

impl Options {
    /// What a request for a slot asks for.
    ///
    /// # Errors
    /// [`PoolError::InvalidArgument`] naming the parameter.
    pub fn of(request: &AttachRequest) -> Result<Self, PoolError> {
        let AttachRequest {
            publish,
            allow,
            deny,
            rate_up,
            rate_down,
            rate_up_packets,
            rate_down_packets,
            reserve_ports,
            ..
        } = request;
        let asked = Self {
            reserve_ports: reserve_ports.unwrap_or(true),
            ..Self::default()
        };
        asked.changed(&UpdateRequest {
            publish: publish.clone(),
            allow: allow.clone(),
            deny: deny.clone(),
            rate_up: *rate_up,
            rate_down: *rate_down,
            rate_up_packets: *rate_up_packets,
            rate_down_packets: *rate_down_packets,
            ..UpdateRequest::default()
        })
    }

    /// These options with what the request gives in place of what was.
    ///
    /// # Errors
    /// [`PoolError::InvalidArgument`] naming the parameter.
    pub fn changed(&self, request: &UpdateRequest) -> Result<Self, PoolError> {
        let publish = match &request.publish {
            Some(texts) => publish::parse_all(texts)?,
            None => self.publish.clone(),
        };
        let allow = match &request.allow {
            Some(texts) => rules::parse_all("allow", texts)?,
            None => self.rules.allow().to_vec(),
        };
        let deny = match &request.deny {
            Some(texts) => rules::parse_all("deny", texts)?,
            None => self.rules.deny().to_vec(),
        };
        let bits = |field, given: Option<u64>, before| match given {
            Some(_) => check_bits(field, given),
            None => Ok(before),
        };
        let packets = |field, given: Option<u64>, before| match given {
            Some(_) => check_packets(field, given),
            None => Ok(before),
        };
        Ok(Self {
            publish,
            reserve_ports: self.reserve_ports,
            rules: Rules::new(allow, deny)?,
            up: Rate {
                bits: bits("rate_up", request.rate_up, self.up.bits)?,
                packets: packets("rate_up_packets", request.rate_up_packets, self.up.packets)?,
            },
            down: Rate {
                bits: bits("rate_down", request.rate_down, self.down.bits)?,
                packets: packets(
                    "rate_down_packets",
                    request.rate_down_packets,
                    self.down.packets,
                )?,
            },
        })
    }

    /// The rules and limits of these options and of `template` together, without ports: the limits of
    /// the template count where there is none here.
    ///
    /// # Errors
    /// [`PoolError::InvalidArgument`] naming the parameter.
    pub fn over(&self, template: &Self) -> Result<Self, PoolError> {
        Ok(Self {
            rules: self.rules.over(&template.rules)?,
            up: self.up.over(template.up),
            down: self.down.over(template.down),
            ..Self::default()
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && !self.has_settings()
    }

    /// Whether there are rules or limits.
    pub fn has_settings(&self) -> bool {
        let unlimited = Rate::default();
        !self.rules.is_empty() || self.up != unlimited || self.down != unlimited
    }

    /// The first parameter in which two differ.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("publish", self.publish == other.publish),
            ("reserve_ports", self.reserve_ports == other.reserve_ports),
            ("allow", self.rules.allow() == other.rules.allow()),
            ("deny", self.rules.deny() == other.rules.deny()),
            ("rate_up", self.up.bits == other.up.bits),
            ("rate_down", self.down.bits == other.down.bits),
            ("rate_up_packets", self.up.packets == other.up.packets),
            ("rate_down_packets", self.down.packets == other.down.packets),
        ]
        .into_iter()
        .find_map(|(field, same)| (!same).then_some(field))
    }
}

/// Options as a request has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Texts {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_up_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_down_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reserve_ports: Option<bool>,
}

impl From<Options> for Texts {
    fn from(options: Options) -> Self {
        let Options {
            publish,
            reserve_ports,
            rules,
            up,
            down,
        } = options;
        let texts = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect();
        let publish = publish::collapse(&publish);
        Self {
            publish: publish.iter().map(Publish::to_string).collect(),
            allow: texts(rules.allow()),
            deny: texts(rules.deny()),
            rate_up: up.bits,
            rate_down: down.bits,
            rate_up_packets: up.packets,
            rate_down_packets: down.packets,
            reserve_ports: (!reserve_ports).then_some(false),
        }
    }
}

impl TryFrom<Texts> for Options {
    type Error = PoolError;

    fn try_from(texts: Texts) -> Result<Self, PoolError> {
        let written = Self {
            reserve_ports: texts.reserve_ports.unwrap_or(true),
            ..Self::default()
        };
        written.changed(&UpdateRequest {
            publish: Some(texts.publish),
            allow: Some(texts.allow),
            deny: Some(texts.deny),
            rate_up: texts.rate_up,
            rate_down: texts.rate_down,
            rate_up_packets: texts.rate_up_packets,
            rate_down_packets: texts.rate_down_packets,
            ..UpdateRequest::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.into()).collect()
    }

    fn request() -> AttachRequest {
        AttachRequest {
            publish: Some(texts(&["81:80", "80:80"])),
            allow: Some(texts(&["192.0.2.0/24"])),
            rate_up: Some(1_000_000),
            ..AttachRequest::default()
        }
    }

    #[test]
    fn the_order_of_what_is_asked_for_does_not_matter() {
        let other = AttachRequest {
            publish: Some(texts(&["80-81:80-81"])),
            ..request()
        };
        let (one, other) = (
            Options::of(&request()).unwrap(),
            Options::of(&other).unwrap(),
        );
        assert_eq!(one.difference(&other), Some("publish"));
        let same = AttachRequest {
            publish: Some(texts(&["tcp:80:80", "tcp:81:80"])),
            ..request()
        };
        assert_eq!(Options::of(&same), Ok(one));
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let before = Options::of(&request()).unwrap();
        let change = UpdateRequest {
            deny: Some(texts(&["192.0.2.1"])),
            rate_down_packets: Some(10),
            ..UpdateRequest::default()
        };
        let after = before.changed(&change).unwrap();
        assert_eq!((&after.publish, after.up), (&before.publish, before.up));
        assert_eq!(after.rules.allow(), before.rules.allow());
        assert_eq!(after.rules.deny().len(), 1);
        assert_eq!(after.down.packets, Some(10));
    }

    #[test]
    fn a_template_counts_where_nothing_else_is_said() {
        let template = AttachRequest {
            allow: Some(texts(&["192.0.2.0/24", "host:53"])),
            deny: Some(texts(&["198.51.100.0/24", "203.0.113.0/24"])),
            rate_up: Some(8_000),
            rate_down: Some(8_000),
            ..AttachRequest::default()
        };
        let asked = AttachRequest {
            publish: Some(texts(&["80:80"])),
            allow: Some(texts(&["198.51.100.0/24", "198.51.100.7:443"])),
            deny: Some(texts(&["192.0.2.0/24"])),
            rate_up: Some(16_000),
            ..AttachRequest::default()
        };
        let both = AttachRequest {
            allow: Some(texts(&["host:53", "198.51.100.0/24", "198.51.100.7:443"])),
            deny: Some(texts(&["192.0.2.0/24", "203.0.113.0/24"])),
            rate_up: Some(16_000),
            rate_down: Some(8_000),
            ..AttachRequest::default()
        };
        let of = |request| Options::of(&request).unwrap();
        assert_eq!(of(asked).over(&of(template)), Ok(of(both)));
    }

    #[test]
    fn a_template_leaves_no_room_for_more_rules_than_there_may_be() {
        let many = |second: u8| {
            let rules = (0..200).map(|last| format!("10.0.{second}.{last}"));
            let request = AttachRequest {
                allow: Some(rules.collect()),
                ..AttachRequest::default()
            };
            Options::of(&request).unwrap()
        };
        let refused = many(1).over(&many(2)).unwrap_err();
        assert!(
            refused.to_string().starts_with("allow: 400 rules"),
            "{refused}"
        );
    }

    #[test]
    fn options_are_the_same_after_they_were_text() {
        let all = AttachRequest {
            publish: Some(texts(&["8000-8010:80-90", "udp:[2001:db8::1]:53:5353"])),
            allow: Some(texts(&["host:53/udp", "*.example.org:443", "192.0.2.0/24"])),
            deny: Some(texts(&["0.0.0.0/0"])),
            rate_up: Some(8_000),
            rate_down_packets: Some(1),
            reserve_ports: Some(false),
            ..AttachRequest::default()
        };
        for request in [request(), all, AttachRequest::default()] {
            let options = Options::of(&request).unwrap();
            let text = serde_json::to_string(&options).unwrap();
            assert_eq!(
                serde_json::from_str::<Options>(&text).unwrap(),
                options,
                "{text}"
            );
        }
    }

    #[test]
    fn everything_can_be_cleared() {
        let nothing = UpdateRequest {
            publish: Some(texts(&[])),
            allow: Some(texts(&[])),
            rate_up: Some(0),
            ..UpdateRequest::default()
        };
        let after = Options::of(&request()).unwrap().changed(&nothing).unwrap();
        assert!(after.is_empty());
        assert_eq!(after, Options::default());
    }

    #[test]
    fn a_change_that_contradicts_what_stays_is_refused() {
        let change = UpdateRequest {
            deny: Some(texts(&["192.0.2.0/24"])),
            ..UpdateRequest::default()
        };
        let refused = Options::of(&request())
            .unwrap()
            .changed(&change)
            .unwrap_err();
        assert!(refused.to_string().starts_with("deny: "), "{refused}");
    }
}
