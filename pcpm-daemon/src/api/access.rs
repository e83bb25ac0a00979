//! Who may do what: the role that a caller's user and groups have, and the role that a call takes.

use nix::unistd::{Gid, Group, Uid, User};
use pcpm_api::error::PoolError;

use super::{calls::Call, peer::Peer};
use crate::config::{self, Principal};

/// What somebody may do, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Ask what this service is.
    Stranger,
    /// See everything.
    Viewer,
    /// Attach, and change what the same user attached.
    User,
    /// Everything.
    Administrator,
}

impl Role {
    /// The least that has to be configured for it.
    const fn key(self) -> &'static str {
        match self {
            Self::Stranger => "access",
            Self::Viewer => "access.viewers (or users, administrators)",
            Self::User => "access.users (or administrators)",
            Self::Administrator => "access.administrators",
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// The user, by number.
    pub(crate) uid: u32,
    /// What it may do.
    pub(crate) role: Role,
    /// Its process, where the daemon can see that.
    pub(crate) pid: Option<u32>,
}

impl Caller {
    /// Whether its role allows `call`.
    ///
    /// # Errors
    /// [`PoolError::PermissionDenied`] with the role that it takes.
    pub(super) fn may_call(self, call: &Call) -> Result<(), PoolError> {
        let takes = call.role();
        if self.role >= takes {
            return Ok(());
        }
        let uid = self.uid;
        let reason = format!(
            "uid {uid} is not in {} of the daemon's configuration",
            takes.key()
        );
        Err(PoolError::PermissionDenied { reason })
    }

    /// Whether it may change, end or enter what anybody attached.
    pub(crate) fn may_touch_all(self) -> bool {
        self.role == Role::Administrator
    }

    /// Whether it may change, end or enter what user `uid` attached.
    pub(crate) fn may_touch(self, uid: u32) -> bool {
        self.may_touch_all() || self.role == Role::User && self.uid == uid
    }
}

/// Who has which role. Root, and the user that the daemon runs as, are administrators always.
#[derive(Debug)]
pub(crate) struct Access {
    viewers: Members,
    users: Members,
    administrators: Members,
    /// The group that the socket belongs to.
    pub(crate) socket_group: Option<Gid>,
}

impl Access {
    /// The roles as configured, names looked up.
    ///
    /// # Errors
    /// A user or group that does not exist, named with its key.
    pub(crate) fn resolve(access: &config::Access) -> Result<Self, String> {
        let mut administrators = Members::resolve("access.administrators", &access.administrators)?;
        administrators.uids.extend([0, Uid::effective().as_raw()]);
        let group = access.group.as_deref();
        Ok(Self {
            viewers: Members::resolve("access.viewers", &access.viewers)?,
            users: Members::resolve("access.users", &access.users)?,
            administrators,
            socket_group: group
                .map(|name| gid("access.group", name).map(Gid::from_raw))
                .transpose()?,
        })
    }

    /// Who is at the other end of a connection.
    pub(super) fn caller(&self, peer: &Peer) -> Caller {
        let roles = [
            (&self.administrators, Role::Administrator),
            (&self.users, Role::User),
            (&self.viewers, Role::Viewer),
        ];
        let found = roles.into_iter().find(|(members, _)| members.has(peer));
        Caller {
            uid: peer.uid,
            role: found.map_or(Role::Stranger, |(_, role)| role),
            pid: peer.pid,
        }
    }
}

/// The users and groups that have a role.
#[derive(Debug, Default)]
struct Members {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Members {
    fn resolve(key: &str, principals: &[Principal]) -> Result<Self, String> {
        let mut members = Self::default();
        for principal in principals {
            match principal {
                Principal::User(name) => members.uids.push(uid(key, name)?),
                Principal::Group(name) => members.gids.push(gid(key, name)?),
            }
        }
        Ok(members)
    }

    fn has(&self, peer: &Peer) -> bool {
        self.uids.contains(&peer.uid) || peer.gids.iter().any(|gid| self.gids.contains(gid))
    }
}

fn uid(key: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("{key}: there is no user '{name}'")),
        Err(error) => Err(format!("{key}: look up user '{name}': {error}")),
    }
}

fn gid(key: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("{key}: there is no group '{name}'")),
        Err(error) => Err(format!("{key}: look up group '{name}': {error}")),
    }
}

impl Call {
    /// The least role that may make this call. Whose attachment it is about is asked separately.
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Info | Self::Description(_) => Role::Stranger,
            // A namespace's file descriptor is the key to it.
            Self::Get(request) if request.pass_fd == Some(true) => Role::User,
            Self::Get(_)
            | Self::List(_)
            | Self::Status
            | Self::Watch(_)
            | Self::Drops(_)
            | Self::Locks(_)
            | Self::Doctor => Role::Viewer,
            Self::Attach(_) | Self::Detach(_) | Self::Update(_) | Self::ReportStart(_) => {
                Role::User
            }
            Self::Drain(_) | Self::Resize(_) | Self::Retire(_) | Self::Reload => {
                Role::Administrator
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::resolve(&config::Access {
            group: Some("root".into()),
            viewers: vec![Principal::Group("700".into())],
            users: vec![
                Principal::User("1000".into()),
                Principal::Group("701".into()),
            ],
            administrators: vec![Principal::Group("702".into())],
        })
        .unwrap()
    }

    #[test]
    fn the_highest_role_of_a_user_and_its_groups_counts() {
        let access = access();
        for (uid, gids, role) in [
            (0, vec![], Role::Administrator),
            (1000, vec![700], Role::User),
            (1001, vec![9, 701], Role::User),
            (1001, vec![700, 702], Role::Administrator),
            (1001, vec![700], Role::Viewer),
            (1001, vec![1000], Role::Stranger),
        ] {
            let caller = access.caller(&Peer {
                pid: None,
                uid,
                gids,
            });
            assert_eq!(caller.role, role, "{caller:?}");
        }
    }

    #[test]
    fn users_touch_their_own_and_administrators_everything() {
        let caller = |uid, role| Caller {
            uid,
            role,
            pid: None,
        };
        assert!(caller(1000, Role::User).may_touch(1000));
        assert!(!caller(1000, Role::User).may_touch(0));
        assert!(!caller(1000, Role::Viewer).may_touch(1000));
        assert!(caller(1000, Role::Administrator).may_touch(0));
    }

    #[test]
    fn a_name_that_nobody_has_is_named_with_its_key() {
        let access = config::Access {
            users: vec![Principal::User("no-such-user".into())],
            ..config::Access::default()
        };
        assert_eq!(
            Access::resolve(&access).unwrap_err(),
            "access.users: there is no user 'no-such-user'"
        );
    }
}
