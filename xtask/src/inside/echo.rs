//! The least a daemon on a Unix socket can do: one thread that reads a message and writes one back.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const LISTENER: u64 = u64::MAX;

/// Serves until it is killed.
pub(super) fn run(socket: &Path, reply_bytes: usize) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
    println!("ready");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut echo = Echo {
        listener,
        epoll,
        clients: Vec::new(),
        reply: vec![b'x'; reply_bytes],
    };
    if let Some(last) = echo.reply.last_mut() {
        *last = 0;
    }
    loop {
        echo.turn()?;
    }
}

struct Echo {
    listener: UnixListener,
    epoll: Epoll,
    clients: Vec<UnixStream>,
    reply: Vec<u8>,
}

impl Echo {
    fn turn(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept()?,
                client => self.answer(usize::try_from(client)?)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let (client, _) = self.listener.accept()?;
        let token = self.clients.len() as u64;
        self.epoll
            .add(&client, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.clients.push(client);
        Ok(())
    }

    fn answer(&mut self, client: usize) -> Result<()> {
        let mut message = [0; 4096];
        let mut stream = &self.clients[client];
        match stream.read(&mut message) {
            Ok(0) => Ok(self.epoll.delete(stream)?),
            Ok(length) if message[..length].ends_with(&[0]) => Ok(stream.write_all(&self.reply)?),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                Ok(self.epoll.delete(stream)?)
            }
            Err(error) => Err(error.into()),
        }
    }
}
