//! The client against a scripted peer at the other end of a socket pair.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg};
use serde_json::{Value, json};

use super::*;
use crate::error::PoolError;
use crate::types::{Lease, OnEmpty, Source};

/// A client whose peer runs `script`; the script's result is that of the returned thread.
fn scripted<T: Send + 'static>(
    script: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> (Client, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = thread::spawn(move || script(theirs));
    (Client::over(ours, "/run/test.sock"), peer)
}

fn read_call(stream: &mut UnixStream) -> Value {
    let mut call = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).unwrap();
        if byte[0] == 0 {
            return serde_json::from_slice(&call).unwrap();
        }
        call.push(byte[0]);
    }
}

fn message(reply: &Value) -> Vec<u8> {
    let mut bytes = reply.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// A peer that answers one call with `bytes` and closes.
fn answering(bytes: Vec<u8>) -> (Client, JoinHandle<Value>) {
    scripted(move |mut stream| {
        let call = read_call(&mut stream);
        stream.write_all(&bytes).unwrap();
        call
    })
}

fn attachment(owner: &str) -> Value {
    json!({
        "id": "7-3", "owner": owner, "tenant": "default", "slot": "s0007", "epoch": 3,
        "netns": "/run/pcpm/netns/s0007", "interface": "eth0", "addresses": ["10.213.0.7"],
        "inner_addresses": ["10.213.0.7"], "gateways": ["169.254.1.1"], "mac": "02:00:00:00:00:07", "mtu": 1500, "publish": [], "allow": [], "deny": [],
        "labels": {}, "lease": "explicit", "source": "warm", "took_us": 12, "attached_at_ms": 1,
        "uid": 0
    })
}

fn frame(full: bool, ready: u32) -> Value {
    json!({
        "full": full, "time_ms": 1, "slots": [], "events": [], "events_lost": 0,
        "counts": {"ready": ready, "attached": 0, "creating": 0, "retiring": 0, "failed": 0,
                   "vacant": 0, "capacity": 8, "target": 8, "waiting": 0}
    })
}

fn pass_fd(stream: &UnixStream, bytes: &[u8], file: &File) {
    let fds = [file.as_raw_fd()];
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}

#[test]
fn an_attach_sends_what_was_asked_and_returns_the_attachment() {
    let (mut client, peer) = answering(message(&json!({"parameters": attachment("web")})));
    let attachment = client
        .attach(&AttachRequest {
            owner: "web".into(),
            on_empty: Some(OnEmpty::Fail),
            lease: Some(Lease::Connection),
            ..AttachRequest::default()
        })
        .unwrap();
    assert_eq!((&*attachment.slot, attachment.epoch), ("s0007", 3));
    assert_eq!(attachment.source, Source::Warm);
    assert_eq!(
        peer.join().unwrap(),
        json!({"method": "io.pcpm.Pool.Attach",
               "parameters": {"owner": "web", "on_empty": "fail", "lease": "connection"}})
    );
}

#[test]
fn an_empty_reply_needs_no_parameters() {
    for reply in [json!({}), json!({"parameters": {}})] {
        let (mut client, _peer) = answering(message(&reply));
        client.detach("web").unwrap();
    }
}

#[test]
fn a_refusal_is_the_pools_own_error_and_the_connection_lives_on() {
    let exhausted = json!({"error": "io.pcpm.Pool.PoolExhausted", "parameters":
        {"depth": 0, "capacity": 8, "waiting": 2, "retry_after_ms": 5}});
    let (mut client, _peer) = scripted(move |mut stream| {
        for reply in [
            exhausted,
            json!({"error": "io.pcpm.Pool.Draining"}),
            json!({}),
        ] {
            read_call(&mut stream);
            stream.write_all(&message(&reply)).unwrap();
        }
    });
    let expected = PoolError::PoolExhausted {
        depth: 0,
        capacity: 8,
        waiting: 2,
        retry_after_ms: 5,
    };
    let ClientError::Pool(error) = client.detach("a").unwrap_err() else {
        panic!("not a refusal");
    };
    assert_eq!(error, expected);
    assert!(matches!(
        client.detach("a"),
        Err(ClientError::Pool(PoolError::Draining {}))
    ));
    client.detach("a").unwrap();
}

#[test]
fn an_error_of_varlink_itself_is_told_apart() {
    let (mut client, _peer) = answering(message(
        &json!({"error": "org.varlink.service.MethodNotFound",
                "parameters": {"method": "io.pcpm.Pool.Status"}}),
    ));
    let error = client.status().unwrap_err();
    assert!(matches!(
        error,
        ClientError::Varlink(ServiceError::MethodNotFound { .. })
    ));
    assert!(error.to_string().contains("io.pcpm.Pool.Status"), "{error}");
}

#[test]
fn replies_may_arrive_in_pieces_and_several_at_once() {
    let (client, peer) = scripted(|mut stream| {
        let call = read_call(&mut stream);
        let frames = [(true, 1), (false, 2), (false, 3)].map(|(full, ready)| {
            message(&json!({"parameters": frame(full, ready), "continues": ready != 3}))
        });
        let bytes = frames.concat();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        for byte in first {
            stream.write_all(&[*byte]).unwrap();
        }
        stream.write_all(rest).unwrap();
        call
    });
    let frames = client
        .watch(&WatchRequest {
            interval_ms: Some(50),
            ..WatchRequest::default()
        })
        .unwrap();
    let ready: Vec<_> = frames.map(|f| f.unwrap().counts.ready).collect();
    assert_eq!(ready, [1, 2, 3]);
    assert_eq!(
        peer.join().unwrap(),
        json!({"method": "io.pcpm.Pool.Watch", "parameters": {"interval_ms": 50}, "more": true})
    );
}

#[test]
fn a_watch_ends_with_an_error_when_the_daemon_goes_away() {
    let (client, _peer) = answering(message(
        &json!({"parameters": frame(true, 1), "continues": true}),
    ));
    let mut frames = client.watch(&WatchRequest::default()).unwrap();
    assert!(frames.next().unwrap().unwrap().full);
    assert!(matches!(frames.next(), Some(Err(ClientError::Lost { .. }))));
    assert!(frames.next().is_none());
}

#[test]
fn the_namespace_comes_as_a_descriptor() {
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    let inode = file.metadata().unwrap().ino();
    let (mut client, _peer) = scripted(move |mut stream| {
        let call = read_call(&mut stream);
        assert_eq!(call["parameters"]["pass_fd"], true);
        let mut reply = attachment("web");
        reply["netns_fd"] = 0.into();
        pass_fd(&stream, &message(&json!({"parameters": reply})), &file);
    });
    let request = AttachRequest {
        owner: "web".into(),
        ..AttachRequest::default()
    };
    let (_, fd) = client.attach_with_netns(&request).unwrap();
    assert_eq!(File::from(fd).metadata().unwrap().ino(), inode);
}

#[test]
fn a_promised_descriptor_that_does_not_come_is_an_error() {
    for index in [json!(0), Value::Null] {
        let mut reply = attachment("web");
        reply["netns_fd"] = index;
        let (mut client, _peer) = answering(message(&json!({"parameters": reply})));
        let request = AttachRequest::default();
        let error = client.attach_with_netns(&request).unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    }
}

#[test]
fn silence_is_a_timeout_that_names_the_method_and_the_socket() {
    let (mut client, _peer) = scripted(|mut stream| {
        read_call(&mut stream);
        // The client hangs up when it gives up.
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    client.set_timeout(Duration::from_millis(30));
    let error = client.status().unwrap_err();
    assert!(error.is_unreachable());
    assert_eq!(
        error.to_string(),
        "Status: no answer from /run/test.sock within 30ms"
    );
}

#[test]
fn a_trickle_does_not_extend_the_deadline() {
    let (mut client, peer) = scripted(|mut stream| {
        read_call(&mut stream);
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(2));
        }
    });
    client.set_timeout(Duration::from_millis(40));
    assert!(matches!(client.status(), Err(ClientError::Timeout { .. })));
    peer.join().unwrap();
}

#[test]
fn a_late_reply_is_never_taken_for_the_next_calls() {
    let (mut client, peer) = scripted(|mut stream| {
        read_call(&mut stream);
        stream.read_to_end(&mut Vec::new()).unwrap();
        let _ = stream.write_all(&message(&json!({})));
    });
    client.set_timeout(Duration::from_millis(20));
    assert!(matches!(
        client.detach("a"),
        Err(ClientError::Timeout { .. })
    ));
    peer.join().unwrap();
    assert!(matches!(client.detach("b"), Err(ClientError::Lost { .. })));
}

#[test]
fn a_wait_for_a_slot_extends_the_deadline() {
    let (mut client, _peer) = scripted(|mut stream| {
        read_call(&mut stream);
        thread::sleep(Duration::from_millis(60));
        let reply = json!({"parameters": attachment("web")});
        stream.write_all(&message(&reply)).unwrap();
    });
    client.set_timeout(Duration::from_millis(20));
    let request = AttachRequest {
        timeout_ms: Some(5000),
        ..AttachRequest::default()
    };
    client.attach(&request).unwrap();
}

#[test]
fn a_peer_that_closes_is_lost() {
    let (mut client, _peer) = scripted(drop);
    assert!(matches!(client.status(), Err(ClientError::Lost { .. })));
}

#[test]
fn nonsense_is_a_protocol_error_with_the_reason() {
    for (bytes, reason) in [
        (b"hello\0".to_vec(), "not a Varlink reply"),
        (b"\0".to_vec(), "not a Varlink reply"),
        (b"{\"parameters\": {\"a\": 1}}\0".to_vec(), "missing field"),
        (b"{\"error\": \"x.y.Z\"}\0".to_vec(), "x.y.Z"),
        (
            b"{\"error\": \"io.pcpm.Pool.\\\"\"}\0".to_vec(),
            "not understood",
        ),
        (
            b"{\"parameters\": {}, \"continues\": true}\0".to_vec(),
            "not the reply",
        ),
    ] {
        let (mut client, _peer) = answering(bytes);
        let error = client.status().unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_list_of_many_megabytes_is_read() {
    let attachments: Vec<_> = (0..10_000).map(|i| attachment(&format!("o{i}"))).collect();
    let reply = message(&json!({"parameters": {"attachments": attachments}}));
    assert!(reply.len() > 3_000_000);
    let (mut client, _peer) = answering(reply);
    assert_eq!(client.list().unwrap().len(), 10_000);
}

#[test]
fn an_endless_reply_is_given_up() {
    let (mut client, peer) = scripted(|mut stream| {
        read_call(&mut stream);
        let piece = vec![b' '; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let error = client.status().unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    peer.join().unwrap();
}

#[test]
fn an_absent_daemon_is_unreachable_and_the_message_asks_whether_it_runs() {
    let missing = std::env::temp_dir().join("pcpm-no-such.sock");
    let error = Client::connect(&missing).err().unwrap();
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("is pcpmd running?"), "{error}");
    assert!(error.to_string().contains("pcpm-no-such.sock"), "{error}");
}

#[test]
fn a_listener_that_accepts_nobody_is_a_timeout() {
    let path = std::env::temp_dir().join(format!("pcpm-deaf-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut clients = Vec::new();
    let error = loop {
        match Client::connect_within(&path, Duration::from_millis(20)) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 100, "the queue has no end");
    };
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}
