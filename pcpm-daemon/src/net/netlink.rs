//! A blocking rtnetlink socket that sends many requests in one system call.
//!
//! Knows messages, sequence numbers and answers; what the messages say is built elsewhere.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::error::{During, NetError};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER_LEN: usize = 16;

/// No request has this type: the kernel refuses it (`RTM_MAX` in linux/rtnetlink.h is less).
#[cfg(test)]
const NO_SUCH_REQUEST: u16 = 1000;

/// The kernel sends dumps in pieces of at most 32 KiB (`max_recvmsg_len` in `af_netlink.c`).
const RECEIVE_LEN: usize = 32 * 1024;

/// How often a dump is repeated that changed while it was read.
const DUMP_TRIES: usize = 5;

/// Requests that travel together. The kernel works through all of them, whatever the others gave.
#[derive(Debug, Default)]
pub(super) struct Batch {
    buffer: Vec<u8>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    what: String,
    offset: usize,
}

/// A request that the kernel refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its position in the batch.
    pub(super) position: usize,
    pub(super) error: NetError,
}

impl Batch {
    /// Adds a request; `what` names the operation and the object in errors.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        flags: u16,
        message: impl Into<RouteNetlinkMessage>,
    ) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message.into()));
        message.finalize();
        let offset = self.buffer.len();
        self.buffer
            .resize(offset + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.buffer[offset..]);
        self.requests.push(Request {
            what: what.into(),
            offset,
        });
    }

    /// Numbers the requests and asks for an answer to the last one: the kernel answers in order, and
    /// errors unasked, so its answer says that all are done.
    fn seal(&mut self, first_sequence: u32) {
        for (request, sequence) in self.requests.iter().zip(first_sequence..) {
            let mut header = NetlinkBuffer::new(&mut self.buffer[request.offset..]);
            header.set_sequence_number(sequence);
            #[cfg(test)]
            if super::faults::hits() {
                header.set_message_type(NO_SUCH_REQUEST);
            }
        }
        if let Some(last) = self.requests.last() {
            let mut header = NetlinkBuffer::new(&mut self.buffer[last.offset..]);
            header.set_flags(header.flags() | NLM_F_ACK);
        }
    }
}

/// A socket in the network namespace that the thread was in when it was opened.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetError> {
        Self::try_open().during(|| "open a netlink socket".to_owned())
    }

    fn try_open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            received: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// Sends a batch and returns what the kernel refused of it, in order; `Err` when the exchange
    /// itself failed and nobody knows how far the kernel came.
    pub(super) fn execute(&mut self, mut batch: Batch) -> Result<Vec<Refused>, NetError> {
        let Some(last) = batch.requests.last() else {
            return Ok(Vec::new());
        };
        let what = last.what.clone();
        let first = self.next_sequences(batch.requests.len());
        batch.seal(first);
        self.send(&batch.buffer).during(|| what.clone())?;
        self.refusals(&batch, first).during(|| what)
    }

    /// Sends a batch of which each request needs the ones before: the first refusal is the error,
    /// the others are its consequences.
    pub(super) fn run(&mut self, batch: Batch) -> Result<(), NetError> {
        match self.execute(batch)?.into_iter().next() {
            Some(first) => Err(first.error),
            None => Ok(()),
        }
    }

    /// Sends a batch of requests to make things, each with `NLM_F_EXCL`, and returns which of them were
    /// missing. What is there already stays as it is.
    pub(super) fn ensure(&mut self, batch: Batch) -> Result<Vec<String>, NetError> {
        let mut missing: Vec<_> = batch
            .requests
            .iter()
            .map(|r| Some(r.what.clone()))
            .collect();
        let mut errors = Vec::new();
        for refused in self.execute(batch)? {
            missing[refused.position] = None;
            if refused.error.errno != Some(Errno::EEXIST) {
                errors.push(refused.error);
            }
        }
        NetError::collect(errors).map(|()| missing.into_iter().flatten().collect())
    }

    /// Sends questions and returns the answers, in order; `None` where there is none. All answers must fit
    /// into the socket's buffer.
    pub(super) fn ask(
        &mut self,
        batch: &mut Batch,
    ) -> Result<Vec<Option<RouteNetlinkMessage>>, NetError> {
        let Some(last) = batch.requests.last() else {
            return Ok(Vec::new());
        };
        let what = last.what.clone();
        let first = self.next_sequences(batch.requests.len());
        batch.seal(first);
        self.send(&batch.buffer).during(|| what.clone())?;
        self.answers(batch, first).during(|| what)
    }

    /// Reads a whole table, and of each entry what `read` makes of it: a link alone takes 15 KiB as a message.
    pub(super) fn dump<T>(
        &mut self,
        what: &str,
        request: impl Into<RouteNetlinkMessage>,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetError> {
        let request = request.into();
        for _ in 0..DUMP_TRIES {
            let found = self.try_dump(what, request.clone(), &read);
            if let Some(entries) = found.during(|| what.to_owned())? {
                return Ok(entries);
            }
        }
        Err(NetError::new(what, "the table keeps changing"))
    }

    fn next_sequences(&mut self, count: usize) -> u32 {
        let first = self.sequence + 1;
        self.sequence += u32::try_from(count).expect("a batch fits in memory");
        first
    }

    fn send(&self, buffer: &[u8]) -> io::Result<()> {
        self.socket.send(buffer, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<()> {
        self.received.clear();
        loop {
            match self.socket.recv(&mut self.received, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    fn refusals(&mut self, batch: &Batch, first: u32) -> io::Result<Vec<Refused>> {
        let mut refused = Vec::new();
        loop {
            self.receive()?;
            for answer in answers(&self.received) {
                // Answers to an exchange that broke off earlier have lower numbers.
                let Some(position) = answer.sequence.checked_sub(first) else {
                    continue;
                };
                let position = position as usize;
                let Some(request) = batch.requests.get(position) else {
                    continue;
                };
                refused.extend(answer.refusal(position, &request.what));
                if position + 1 == batch.requests.len() {
                    return Ok(refused);
                }
            }
        }
    }

    /// Up to the acknowledgement of the last question, which comes behind its answer.
    fn answers(
        &mut self,
        batch: &Batch,
        first: u32,
    ) -> io::Result<Vec<Option<RouteNetlinkMessage>>> {
        let mut answered: Vec<_> = batch.requests.iter().map(|_| None).collect();
        loop {
            self.receive()?;
            for answer in answers(&self.received) {
                let Some(position) = answer.sequence.checked_sub(first) else {
                    continue;
                };
                let position = position as usize;
                let Some(request) = batch.requests.get(position) else {
                    continue;
                };
                if answer.kind != NLMSG_ERROR {
                    answered[position] = answer.parse(&request.what);
                } else if position + 1 == batch.requests.len() {
                    return Ok(answered);
                }
            }
        }
    }

    /// `None` when the table changed while it was read.
    fn try_dump<T>(
        &mut self,
        what: &str,
        request: RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let mut batch = Batch::default();
        batch.add(what, NLM_F_DUMP, request);
        let sequence = self.next_sequences(1);
        batch.seal(sequence);
        self.send(&batch.buffer)?;
        let mut entries = Vec::new();
        let mut changed = false;
        loop {
            self.receive()?;
            for answer in answers(&self.received).filter(|a| a.sequence == sequence) {
                changed |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_DONE => return Ok((!changed).then_some(entries)),
                    NLMSG_ERROR => return Err(answer.errno().into()),
                    _ => entries.extend(answer.parse(what).and_then(&read)),
                }
            }
        }
    }
}

/// One message of the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    whole: &'a [u8],
}

impl Answer<'_> {
    fn payload(&self) -> &[u8] {
        &self.whole[HEADER_LEN..]
    }

    fn errno(&self) -> Errno {
        let number = self
            .payload()
            .first_chunk()
            .map_or(0, |b| i32::from_ne_bytes(*b));
        Errno::from_raw(-number)
    }

    fn refusal(&self, position: usize, what: &str) -> Option<Refused> {
        let errno = self.errno();
        (self.kind == NLMSG_ERROR && errno as i32 != 0).then(|| Refused {
            position,
            error: NetError::kernel(what, errno, self.kernel_message().as_deref()),
        })
    }

    /// The kernel's own words, where it has some.
    fn kernel_message(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        // NETLINK_CAP_ACK: only the header of the refused request stands before the attributes.
        let attributes = self.payload().get(4 + HEADER_LEN..)?;
        let message = NlasIterator::new(attributes)
            .flatten()
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
        let text = String::from_utf8_lossy(message.value()).into_owned();
        Some(text.trim_end_matches('\0').to_owned())
    }

    fn parse(&self, what: &str) -> Option<RouteNetlinkMessage> {
        match NetlinkMessage::deserialize(self.whole) {
            Ok(NetlinkMessage {
                payload: NetlinkPayload::InnerMessage(message),
                ..
            }) => Some(message),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!("{what}: skipped a message that cannot be read: {error}");
                None
            }
        }
    }
}

fn answers(mut buffer: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = NetlinkBuffer::new_checked(buffer).ok()?;
        let (whole, _) = buffer.split_at_checked(header.length() as usize)?;
        let answer = Answer {
            kind: header.message_type(),
            flags: header.flags(),
            sequence: header.sequence_number(),
            whole,
        };
        buffer = buffer.get(whole.len().next_multiple_of(4)..).unwrap_or(&[]);
        Some(answer)
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn batch_of_two() -> Batch {
        let mut batch = Batch::default();
        batch.add(
            "first",
            0,
            RouteNetlinkMessage::SetLink(LinkMessage::default()),
        );
        batch.add(
            "second",
            0,
            RouteNetlinkMessage::DelLink(LinkMessage::default()),
        );
        batch
    }

    /// A message of the kernel that refuses the request `sequence`.
    fn refusal(sequence: u32, errno: Errno, words: Option<&str>) -> Vec<u8> {
        let mut message = vec![0; HEADER_LEN];
        message.extend((-(errno as i32)).to_ne_bytes());
        message.extend([0; HEADER_LEN]);
        if let Some(words) = words {
            let length = u16::try_from(4 + words.len() + 1).unwrap();
            message.extend(length.to_ne_bytes());
            message.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
            message.extend(words.as_bytes());
            message.push(0);
        }
        let length = u32::try_from(message.len()).unwrap();
        message.resize(message.len().next_multiple_of(4), 0);
        let mut header = NetlinkBuffer::new(&mut message);
        header.set_length(length);
        header.set_message_type(NLMSG_ERROR);
        header.set_flags(if words.is_some() { NLM_F_ACK_TLVS } else { 0 });
        header.set_sequence_number(sequence);
        message
    }

    #[test]
    fn only_the_last_request_of_a_batch_asks_for_an_answer() {
        let mut batch = batch_of_two();
        batch.seal(7);
        let asked: Vec<_> = answers(&batch.buffer)
            .map(|request| (request.sequence, request.flags & NLM_F_ACK != 0))
            .collect();
        assert_eq!(asked, [(7, false), (8, true)]);
    }

    #[test]
    fn a_refusal_carries_the_operation_and_the_kernels_words() {
        let buffer = refusal(3, Errno::EINVAL, Some("too many queues"));
        let answer = answers(&buffer).next().unwrap();
        let refused = answer.refusal(0, "create veth s0001 in hub 0").unwrap();
        assert_eq!(
            refused.error.to_string(),
            "create veth s0001 in hub 0: EINVAL: Invalid argument (too many queues)"
        );
    }

    #[test]
    fn success_is_no_refusal() {
        let buffer = refusal(3, Errno::from_raw(0), None);
        assert!(answers(&buffer).all(|answer| answer.refusal(0, "x").is_none()));
    }

    #[test]
    fn answers_stand_one_behind_the_other() {
        let mut buffer = refusal(1, Errno::EEXIST, Some("odd"));
        buffer.extend(refusal(2, Errno::ENODEV, None));
        let seen: Vec<_> = answers(&buffer).map(|a| (a.sequence, a.errno())).collect();
        assert_eq!(seen, [(1, Errno::EEXIST), (2, Errno::ENODEV)]);
    }

    #[test]
    fn a_cut_off_message_ends_the_answers() {
        let mut buffer = refusal(1, Errno::EEXIST, None);
        buffer.truncate(20);
        assert_eq!(answers(&buffer).count(), 0);
    }
}
