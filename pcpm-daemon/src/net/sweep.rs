//! Removing all that a daemon on this state directory made, whether it is us or a killed one.
//!
//! What there is to remove is read from the state directory's mounts and the links' marks, never
//! from memory, so that shutting down and starting after a crash are the same.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use pcpm_api::types::SharedNamespace;

use super::error::NetError;
use super::host::Home;
use super::netlink::{Batch, Netlink};
use super::tables::{Link, Tables};
use super::{Swept, egress, hub, hub_of, link, namespace, share};

/// Threads that remove hubs. One waits for the kernel to forget mounts while another holds
/// `rtnl_mutex`; more than a few only wait for each other.
const THREADS: usize = 4;

/// A hub, or what is left of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// Its mount point.
    hub: Option<PathBuf>,
    /// Its slots.
    pub(super) slots: BTreeSet<u32>,
    /// Those of other namespaces of its slots.
    pub(super) shared: Vec<(SharedNamespace, PathBuf)>,
}

/// One thing that happened, on its way to whoever waits.
enum Event {
    Links(usize),
    Mount,
    Error(NetError),
}

/// Removes everything, directories too, in threads of its own and waits at most that long for them.
pub(super) fn remove_everything(home: &Arc<Home>, within: Duration) -> Swept {
    in_time(home, within, |home, events| {
        remove_all_but(home, &BTreeMap::new(), events);
        let report = Report(events);
        report.error(home.mounts.end());
        report.error(namespace::unshare_directory(&home.hubs()));
        for directory in share::directories(&home.state_dir, share::everything()) {
            report.error(namespace::unshare_directory(&directory));
        }
        report.error(egress::end(&home.state_dir));
    })
}

/// Removes all hubs, and their slots, but those with a number in `kept`, each with the interface index of
/// its link in the host.
pub(super) fn remove_others(home: &Arc<Home>, kept: BTreeMap<u32, u32>, within: Duration) -> Swept {
    in_time(home, within, move |home, events| {
        remove_all_but(home, &kept, events);
    })
}

fn in_time(
    home: &Arc<Home>,
    within: Duration,
    work: impl FnOnce(&Home, &Sender<Event>) + Send + 'static,
) -> Swept {
    let deadline = Instant::now() + within;
    let (events, happened) = mpsc::channel();
    let home = Arc::clone(home);
    thread::spawn(move || work(&home, &events));
    let mut swept = Swept::default();
    loop {
        match happened.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Links(count)) => swept.links += count,
            Ok(Event::Mount) => swept.mounts += 1,
            Ok(Event::Error(error)) => swept.errors.push(error),
            Err(RecvTimeoutError::Disconnected) => return swept,
            Err(RecvTimeoutError::Timeout) => {
                let cause = format!("not done within {within:?}");
                swept.errors.push(NetError::new("remove networks", cause));
                return swept;
            }
        }
    }
}

fn remove_all_but(home: &Home, kept: &BTreeMap<u32, u32>, events: &Sender<Event>) {
    let report = Report(events);
    report.error(namespace::enter(&home.netns));
    let links: HashSet<u32> = kept.values().copied().collect();
    report.error(count_links(home, &links, &report));
    let mut remains = find_remains(home);
    remains.retain(|number, _| !kept.contains_key(number));
    remove_hubs(home, remains, events);
    report.error(remove_host_links(home, &links));
}

/// Where outcomes go.
struct Report<'a>(&'a Sender<Event>);

impl Report<'_> {
    fn error(&self, outcome: Result<(), NetError>) {
        if let Err(error) = outcome {
            self.send(Event::Error(error));
        }
    }

    fn send(&self, event: Event) {
        // Nobody listens any more when the time is up; the work goes on.
        let _ = self.0.send(event);
    }
}

fn remove_hubs(home: &Home, remains: BTreeMap<u32, Remains>, events: &Sender<Event>) {
    let queue = Mutex::new(remains.into_iter());
    let next = || queue.lock().expect("no thread panics with it").next();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let events = events.clone();
            scope.spawn(move || {
                while let Some((number, remains)) = next() {
                    remove_hub(home, number, &remains, &Report(&events));
                }
            });
        }
    });
}

/// What is mounted in the state directory, by hub.
pub(super) fn find_remains(home: &Home) -> BTreeMap<u32, Remains> {
    let mut found = BTreeMap::<u32, Remains>::new();
    for path in namespace::files_below(&home.hubs()) {
        if let Some(number) = number_of(&path, "") {
            found.entry(number).or_default().hub = Some(path);
        }
    }
    for index in home.mounts.indexes() {
        found.entry(hub_of(index)).or_default().slots.insert(index);
    }
    for (kind, path) in share::remains(&home.state_dir) {
        if let Some(index) = number_of(&path, "s") {
            let remains = found.entry(hub_of(index)).or_default();
            remains.shared.push((kind, path));
        }
    }
    found
}

/// The number in a mount point's name; `None` when the name is not one that we give.
pub(super) fn number_of(path: &Path, prefix: &str) -> Option<u32> {
    let digits = path.file_name()?.to_str()?.strip_prefix(prefix)?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// Links first: with them gone, names and routes are, even if somebody holds a namespace.
fn remove_hub(home: &Home, number: u32, remains: &Remains, report: &Report<'_>) {
    if let Some(hub) = &remains.hub {
        let outcome = remove_links(hub);
        report.error(outcome.map_err(|error| error.of(&format!("hub {number}"))));
    }
    for index in &remains.slots {
        match home.mounts.remove(*index) {
            Ok(true) => report.send(Event::Mount),
            Ok(false) => {}
            Err(error) => report.send(Event::Error(error)),
        }
    }
    let shared = remains.shared.iter().map(|(_, path)| path);
    for path in shared.chain(&remains.hub) {
        match namespace::detach(path) {
            Ok(true) => report.send(Event::Mount),
            Ok(false) => {}
            Err(error) => report.send(Event::Error(error)),
        }
        report.error(namespace::unmount(path));
    }
}

/// Deletes the links of the hub mounted at `path`, in a thread that may go there.
fn remove_links(path: &Path) -> Result<(), NetError> {
    let Ok(netns) = File::open(path) else {
        return Ok(());
    };
    namespace::in_thread(|| match namespace::enter(&netns) {
        // Only a file: the mount is gone, and the namespace with it.
        Err(error) if error.errno == Some(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let mut socket = Netlink::open()?;
            let slots = delete_slot_links(&mut socket);
            let link = hub::remove_link(&mut socket);
            NetError::collect(slots.err().into_iter().chain(link.err()))
        }
    })
}

fn delete_slot_links(socket: &mut Netlink) -> Result<(), NetError> {
    let mut batch = Batch::default();
    batch.add("delete slot links", 0, link::delete_group(link::SLOT_GROUP));
    match socket.run(batch) {
        Err(error) if error.errno == Some(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

fn host_tables(home: &Home) -> Result<(Netlink, Tables), NetError> {
    let mut socket = Netlink::open()?;
    let tables = Tables::read(&mut socket, &home.mark())?;
    Ok((socket, tables))
}

fn count_links(home: &Home, kept: &HashSet<u32>, report: &Report<'_>) -> Result<(), NetError> {
    let (_, tables) = host_tables(home)?;
    report.send(Event::Links(unwanted(&tables, kept).count()));
    Ok(())
}

/// Links in the host whose hub lost its mount.
fn remove_host_links(home: &Home, kept: &HashSet<u32>) -> Result<(), NetError> {
    let (mut socket, tables) = host_tables(home)?;
    let mut batch = Batch::default();
    for ours in unwanted(&tables, kept) {
        batch.add(
            format!("delete link {}", ours.name),
            0,
            link::delete(ours.index),
        );
    }
    let refused = socket
        .execute(batch)?
        .into_iter()
        .map(|refused| refused.error);
    NetError::collect(refused.filter(|error| error.errno != Some(Errno::ENODEV)))
}

/// Links of ours that are not kept.
fn unwanted<'a>(tables: &'a Tables, kept: &'a HashSet<u32>) -> impl Iterator<Item = &'a Link> {
    let links = tables.links.iter();
    links.filter(|link| link.is_ours && !kept.contains(&link.index))
}
