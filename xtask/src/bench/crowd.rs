//! Many clients that all ask in the same instant, driven by one thread: as many threads on two
//! cores would ask one after the other and measure the scheduler.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const PATIENCE_MS: u16 = 60_000;

/// Connected clients.
pub(super) struct Crowd {
    clients: Vec<UnixStream>,
    epoll: Epoll,
    buffer: Vec<u8>,
}

/// What one client was told.
pub(super) struct Answer {
    /// How long it waited.
    pub(super) nanos: u64,
    /// With the zero that ends it.
    pub(super) text: Vec<u8>,
}

impl Crowd {
    /// Connects `count` clients to `socket`.
    pub(super) fn connect(socket: &Path, count: usize) -> Result<Self> {
        let connect = || UnixStream::connect(socket).context("connect a client");
        let clients = (0..count).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (client, token) in clients.iter().zip(0..) {
            epoll.add(client, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(Self {
            clients,
            epoll,
            buffer: vec![0; 64 * 1024],
        })
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Sends one of `requests` from each client at once; returns how long each waited for its
    /// answer, in nanoseconds. An answer that `bad` says is one is an error.
    pub(super) fn ask(&mut self, requests: &[Vec<u8>], bad: fn(&[u8]) -> bool) -> Result<Vec<u64>> {
        let answers = self.ask_all(requests)?;
        if let Some(answer) = answers.iter().find(|answer| bad(&answer.text)) {
            let text = String::from_utf8_lossy(&answer.text);
            bail!("a client was answered {text:?}");
        }
        Ok(answers.into_iter().map(|answer| answer.nanos).collect())
    }

    /// As [`ask`](Self::ask), with all answers, in the order in which they came.
    pub(super) fn ask_all(&mut self, requests: &[Vec<u8>]) -> Result<Vec<Answer>> {
        let mut asked = Vec::with_capacity(self.clients.len());
        for (mut client, request) in self.clients.iter().zip(requests) {
            asked.push(Instant::now());
            client.write_all(request).context("send a request")?;
        }
        let mut answers = Vec::with_capacity(asked.len());
        let mut begun = vec![Vec::new(); asked.len()];
        while answers.len() < asked.len() {
            self.collect(&asked, &mut begun, &mut answers)?;
        }
        Ok(answers)
    }

    fn collect(
        &mut self,
        asked: &[Instant],
        begun: &mut [Vec<u8>],
        answers: &mut Vec<Answer>,
    ) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self
            .epoll
            .wait(&mut events, EpollTimeout::from(PATIENCE_MS))
        {
            Ok(0) => bail!("{} answers did not come", asked.len() - answers.len()),
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in &events[..count] {
            let client = usize::try_from(event.data())?;
            let length = (&self.clients[client]).read(&mut self.buffer)?;
            if length == 0 {
                bail!("a client was hung up on");
            }
            begun[client].extend_from_slice(&self.buffer[..length]);
            if begun[client].ends_with(&[0]) {
                answers.push(Answer {
                    nanos: u64::try_from(asked[client].elapsed().as_nanos())?,
                    text: std::mem::take(&mut begun[client]),
                });
            }
        }
        Ok(())
    }
}
