//! What the rtnl lock is taken for on a busy host: links made, set up, listed, removed one by one and many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};

use super::message::{Link, Message};
use super::namespace::Netns;
use super::socket::RouteSocket;

/// Links that a thread has at most.
const LINKS: i32 = 8;
/// Those that it removes one by one; the others go at once.
const ONE_BY_ONE: i32 = 2;
const FIRST: i32 = 100;
const GROUP: u32 = 7;

/// The running threads. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct LinkLoad {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl LinkLoad {
    /// Starts threads, each in a network namespace of its own.
    pub(crate) fn start(threads: u32) -> Result<Self> {
        let mut load = Self {
            ended: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let ended = load.ended.clone();
            let thread = thread::Builder::new().name("bench-links".to_owned());
            let thread = thread.spawn(move || change_links_until(&ended));
            load.threads.push(thread.context("start a thread")?);
        }
        Ok(load)
    }

    /// Ends the threads, and says how many requests were answered.
    pub(crate) fn stop(mut self) -> Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        let answered = self.threads.drain(..).map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("changing links panicked"))?
        });
        answered.sum()
    }
}

impl Drop for LinkLoad {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn change_links_until(ended: &AtomicBool) -> Result<u64> {
    let netns = Netns::create()?;
    let mut socket = RouteSocket::open()?;
    let mut answered = 0;
    let mut request = |messages: Vec<Message>| {
        for message in messages {
            if ended.load(Ordering::Relaxed) {
                return Ok(false);
            }
            socket.request("change a link", vec![message])?;
            socket.list("list the links", Message::list_links())?;
            answered += 2;
        }
        Ok::<_, anyhow::Error>(true)
    };
    while request((0..LINKS).flat_map(|n| new_link(&netns, n)).collect())?
        && request(
            (0..ONE_BY_ONE)
                .map(|n| Message::remove_link(&format!("a{n}")))
                .collect(),
        )?
        && request(vec![Message::remove_group(GROUP)])?
    {}
    Ok(answered)
}

fn new_link(netns: &Netns, number: i32) -> [Message; 2] {
    let (name, peer) = (format!("a{number}"), format!("b{number}"));
    let link = Link {
        name: &name,
        index: FIRST + number,
        mac: None,
    };
    let peer = Link {
        name: &peer,
        index: FIRST + LINKS + number,
        mac: None,
    };
    [
        Message::new_veth(link, peer, netns.raw(), 1500).in_group(GROUP),
        Message::up(FIRST + number),
    ]
}
