//! Looking as another user: what a file's owner, mode and place let the service's user see.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::text::line::shown;
use crate::text::reason;

/// The user that the package makes for the service.
const SERVICE: &str = "iofog-connector";

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    name: String,
    id: u32,
    group: u32,
    /// All groups, the first one included.
    groups: Vec<u32>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl User {
    /// The user to check as: the one of this name or number; by default, where this is root, the
    /// service's, or else the owner of the folder `dir`, in which the service must write. `None`
    /// for the user that this is.
    ///
    /// # Errors
    /// An unknown user, or another one without being root.
    pub(super) fn choose(name: Option<&str>, dir: &Path) -> Result<Option<Self>, String> {
        let [users, groups] = ["/etc/passwd", "/etc/group"]
            .map(|file| fs::read_to_string(Path::new(file)).unwrap_or_default());
        let own = geteuid();
        match name {
            None if own.is_root() => Ok(User::service(dir, &users, &groups)),
            None => Ok(None),
            Some(name) => match User::find(name, &users, &groups) {
                None => Err(format!(
                    "--user: there is no user {} in /etc/passwd; name one of those (cut -d: \
                     -f1 /etc/passwd), or leave --user out for the service's",
                    shown(name)
                )),
                Some(user) if user.id == own.as_raw() => Ok(None),
                Some(_) if !own.is_root() => Err(format!(
                    "--user: only root can check as {name}; run it with sudo, or without --user \
                     for {}'s own",
                    reason::user()
                )),
                user => Ok(user),
            },
        }
    }

    /// Whether this is neither root nor the user that runs the service, so that what it may not
    /// read says nothing about the service.
    pub(super) fn is_onlooker(dir: &Path) -> bool {
        let own = geteuid();
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let owns = fs::metadata(dir).is_ok_and(|folder| folder.uid() == own.as_raw());
        let service = User::service(dir, &users, "");
        !own.is_root() && !owns && service.is_none_or(|user| user.id != own.as_raw())
    }

    /// The user that runs the service, or who owns the folder in which it must write.
    fn service(dir: &Path, users: &str, groups: &str) -> Option<Self> {
        User::find(SERVICE, users, groups).or_else(|| User::owner(dir, users, groups))
    }

    /// The owner of a folder; `None` for root.
    fn owner(dir: &Path, users: &str, groups: &str) -> Option<Self> {
        let folder = fs::metadata(dir).ok().filter(|folder| folder.uid() != 0)?;
        let name = folder.uid().to_string();
        let unnamed = || {
            let group = folder.gid();
            User { name: name.clone(), id: folder.uid(), group, groups: vec![group] }
        };
        Some(User::find(&name, users, groups).unwrap_or_else(unnamed))
    }

    /// Looks a user up by name or number; `users` and `groups` are passwd(5) and group(5).
    fn find(name: &str, users: &str, groups: &str) -> Option<Self> {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let user = users
            .lines()
            .map(fields)
            .find(|user| user.len() > 3 && (user[0] == name || user[2] == name))?;
        let (id, group) = (user[2].parse().ok()?, user[3].parse().ok()?);
        let member = |group: &Vec<String>| {
            group.len() > 3 && group[3].split(',').any(|member| member == user[0])
        };
        let others = groups.lines().map(fields).filter(member);
        let others = others.filter_map(|group| group[2].parse().ok()).filter(|id| *id != group);
        let groups = std::iter::once(group).chain(others).collect();
        Some(User { name: user[0].clone(), id, group, groups })
    }

    /// Runs `look` with this user's rights: in a thread of its own, which alone has them.
    ///
    /// # Errors
    /// When the kernel does not let root become that user (some containers).
    pub(super) fn see<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Result<T, String> {
        let become_user = || -> Result<(), Errno> {
            let groups: Vec<_> = self.groups.iter().map(|id| Gid::from_raw(*id)).collect();
            set_thread_groups(&groups)?;
            set_thread_gid(Gid::from_raw(self.group))?;
            // Last, since this takes away the right to do the others.
            set_thread_uid(Uid::from_raw(self.id))
        };
        thread::scope(|scope| {
            let looking = scope.spawn(|| become_user().map(|()| look()));
            match looking.join() {
                Ok(Ok(seen)) => Ok(seen),
                Ok(Err(error)) => Err(format!(
                    "--user: the kernel does not let root become {self} here ({}); run the check as \
                     that user, or with --user root",
                    reason::words(&error.into())
                )),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// The group of the service's user, where the package or the operator has made it.
pub(super) fn service_group() -> Option<Gid> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    User::find(SERVICE, &users, "").map(|user| Gid::from_raw(user.group))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nservice:x:105:110::/:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nservice:x:110:\nssl-cert:x:112:service,www\nwww:x:33:www\n\
                          adm:x:4:www,service\nservice2:x:7:service2\n";

    #[test]
    fn users_are_found_by_name_or_number_with_all_their_groups() {
        let service = User::find("service", USERS, GROUPS);
        let groups = vec![110, 112, 4];
        let expected = User { name: "service".into(), id: 105, group: 110, groups };
        assert_eq!(service, Some(expected));
        assert_eq!(User::find("105", USERS, GROUPS), service);
        assert_eq!(User::find("root", USERS, GROUPS).map(|user| user.groups), Some(vec![0]));
        for nobody in ["x", "", "broken", "serv"] {
            assert_eq!(User::find(nobody, USERS, GROUPS), None, "{nobody}");
        }
    }
}
