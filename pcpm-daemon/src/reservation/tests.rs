//! Reservations on a host that does what it is told, and on the real one of a namespace of its own.

use std::{
    io::Read as _,
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{fake::FakePorts, *};

fn ports(texts: &[&str]) -> Vec<Port> {
    let owned: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
    pcpm_api::publish::parse_all(&owned).unwrap()
}

fn on(kernel: &FakePorts) -> Reservations {
    Reservations::new(Box::new(kernel.clone()), 4)
}

#[test]
fn a_port_of_another_attachment_is_refused_with_its_slot() {
    let mut all = on(&FakePorts::default());
    all.reserve(1, &ports(&["80:80"]), Keeper::Daemon).unwrap();
    for overlapping in ["80:8080", "127.0.0.1:80:80"] {
        let refused = all
            .reserve(2, &ports(&[overlapping]), Keeper::Daemon)
            .unwrap_err();
        assert!(
            matches!(refused, ReservationError::Published { slot: 1, .. }),
            "{refused}"
        );
    }
    all.reserve(2, &ports(&["udp:80:80"]), Keeper::Daemon)
        .unwrap();
    all.release(1, &ports(&["80:80"]));
    all.reserve(2, &ports(&["127.0.0.1:80:80"]), Keeper::Daemon)
        .unwrap();
    assert_eq!(all.count(), 2);
}

#[test]
fn all_ports_of_a_request_are_reserved_or_none() {
    let kernel = FakePorts::default();
    kernel.failures.borrow_mut().push((82, Errno::EADDRINUSE));
    let mut all = on(&kernel);
    let refused = all
        .reserve(1, &ports(&["80-82:80-82"]), Keeper::Daemon)
        .unwrap_err();
    assert!(
        refused.to_string().contains("tcp:82:82 is taken"),
        "{refused}"
    );
    assert_eq!(all.count(), 0);
    all.reserve(2, &ports(&["80:80"]), Keeper::Daemon).unwrap();
}

#[test]
fn the_number_of_ports_is_bounded() {
    let mut all = on(&FakePorts::default());
    all.reserve(1, &ports(&["1-3:1-3"]), Keeper::Daemon)
        .unwrap();
    let refused = all
        .reserve(2, &ports(&["8-9:8-9"]), Keeper::Daemon)
        .unwrap_err();
    assert_eq!(refused, ReservationError::TooMany(4));
    all.reserve(2, &ports(&["8:8"]), Keeper::Daemon).unwrap();
}

#[test]
fn ports_that_answers_to_slots_come_to_are_not_published_for_udp() {
    let range = PortRange {
        first: 100,
        last: 200,
    };
    let mut all = on(&FakePorts::default()).beside_translated(range);
    for taken in ["udp:100:53", "udp:200:53"] {
        let refused = all
            .reserve(1, &ports(&[taken]), Keeper::Daemon)
            .unwrap_err();
        assert!(refused.to_string().contains("nat.ports"), "{refused}");
    }
    let others = ports(&["udp:99:53", "udp:201:53", "150:80"]);
    all.reserve(1, &others, Keeper::Daemon).unwrap();
}

#[test]
fn an_attachment_may_change_where_its_own_port_answers() {
    let kernel = FakePorts::default();
    let mut all = on(&kernel);
    let (before, after) = (ports(&["80:80"]), ports(&["127.0.0.1:80:80"]));
    all.reserve(1, &before, Keeper::Daemon).unwrap();
    all.reserve(1, &after, Keeper::Daemon).unwrap();
    all.release(1, &before);
    assert_eq!(kernel.bound.borrow()[1], (after[0], 1));
    assert_eq!(all.count(), 1);
}

/// A port of the machine's loopback that nobody has now.
fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

fn real() -> Reservations {
    Reservations::new(Box::new(HostSockets), 16)
}

#[test]
fn no_program_gets_a_reserved_port_until_it_is_released() {
    let port = free_port();
    let mut all = real();
    let both = ports(&[&format!("{port}:80"), &format!("udp:{port}:80")]);
    all.reserve(1, &both, Keeper::Daemon).unwrap();
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens");
    for address in ["0.0.0.0", "127.0.0.1"] {
        // The standard library's listeners share the port with whoever shares it.
        let listen = TcpListener::bind((address, port)).unwrap_err();
        assert_eq!(listen.kind(), std::io::ErrorKind::AddrInUse);
        let receive = UdpSocket::bind((address, port)).unwrap_err();
        assert_eq!(receive.kind(), std::io::ErrorKind::AddrInUse);
    }
    all.release(1, &both);
    TcpListener::bind(("0.0.0.0", port)).unwrap();
    UdpSocket::bind(("0.0.0.0", port)).unwrap();
}

#[test]
fn a_port_that_a_program_has_is_refused() {
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = program.local_addr().unwrap().port();
    for wanted in [format!("{port}:80"), format!("127.0.0.1:{port}:80")] {
        let refused = real()
            .reserve(1, &ports(&[&wanted]), Keeper::Daemon)
            .unwrap_err();
        assert!(matches!(refused, ReservationError::Taken(_)), "{refused}");
    }
    real()
        .reserve(
            1,
            &ports(&[&format!("127.0.0.2:{port}:80")]),
            Keeper::Daemon,
        )
        .unwrap();
}

#[test]
fn connections_that_an_earlier_program_closed_do_not_keep_their_port() {
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = program.local_addr().unwrap().port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // Whoever closes first has the connection in TIME_WAIT.
    drop((program.accept().unwrap(), program));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    let mut all = real();
    all.reserve(1, &ports(&[&format!("{port}:80")]), Keeper::Daemon)
        .unwrap();
    TcpListener::bind(("127.0.0.1", port)).unwrap_err();
}

#[test]
fn an_address_that_the_host_does_not_have_is_refused() {
    let wanted = ports(&["192.0.2.77:80:80"]);
    let refused = real().reserve(1, &wanted, Keeper::Daemon).unwrap_err();
    assert_eq!(refused, ReservationError::NoSuchAddress(wanted[0]));
}

#[test]
fn a_port_stays_taken_while_its_address_changes() {
    let port = free_port();
    let mut all = real();
    let everywhere = ports(&[&format!("{port}:80"), &format!("udp:{port}:80")]);
    let one = ports(&[
        &format!("127.0.0.1:{port}:80"),
        &format!("udp:127.0.0.1:{port}:80"),
    ]);
    for (before, after) in [(&everywhere, &one), (&one, &everywhere)] {
        all.reserve(1, before, Keeper::Daemon).unwrap();
        all.reserve(1, after, Keeper::Daemon).unwrap();
        all.release(1, before);
        TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        UdpSocket::bind(("127.0.0.1", port)).unwrap_err();
        all.release(1, after);
    }
    assert_eq!(all.count(), 0);
}

#[test]
fn a_port_that_the_client_keeps_is_free_for_it_and_for_no_other_attachment() {
    let kernel = FakePorts::default();
    let mut all = on(&kernel);
    kernel.failures.borrow_mut().push((81, Errno::EADDRINUSE));
    all.reserve(1, &ports(&["80:80"]), Keeper::Client).unwrap();
    let refused = all.reserve(2, &ports(&["80:80"]), Keeper::Client);
    assert!(matches!(refused, Err(ReservationError::Published { .. })));
    let taken = all.reserve(1, &ports(&["81:81"]), Keeper::Client);
    assert!(matches!(taken, Err(ReservationError::Taken(_))));
    all.reserve(1, &ports(&["81:81"]), Keeper::ClientAlready)
        .unwrap();
    assert_eq!(all.count(), 2);
    all.release(1, &ports(&["80-81:80-81"]));
    assert_eq!(all.count(), 0);
}
