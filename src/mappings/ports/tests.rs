//! The pool with real ports of the machine that runs the tests.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustix::net::sockopt;

use super::*;
use crate::limits;
use crate::testing::ports::PortBlock;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Ports that nobody else uses, neither another test nor the kernel for outgoing connections, until
/// this process ends.
fn free_ports<const N: usize>() -> [u16; N] {
    let block = Box::leak(Box::new(PortBlock::take(N as u16)));
    let mut ports = block.all();
    [(); N].map(|()| ports.next().expect("as many as were taken"))
}

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 0, last).into()
}

fn pool_of(ports: &[u16], listen: Option<IpAddr>) -> Pool {
    Pool::new(ports, listen, Files::new(1 << 20))
}

fn lease_pair(pool: &Pool) -> Result<[Lease; 2], PortError> {
    Ok([pool.lease()?, pool.lease()?])
}

#[test]
fn no_port_is_opened_without_a_file() {
    let at = local(7);
    let ports = free_ports::<4>();
    let files = Files::new(1 << 20);
    let pool = Pool::new(&ports, Some(at), files.clone());
    let used = files.used();
    let pair = lease_pair(&pool).expect("two ports");
    assert_eq!(files.used(), used + 2);
    drop(pair);
    assert_eq!(files.used(), used);
    let none = Pool::new(&ports, Some(at), Files::new(4));
    let errors = [none.lease().map(drop), none.lease_port(ports[0]).map(drop)];
    for error in errors {
        let error = error.expect_err("no file");
        assert!(matches!(error, PortError::NoFiles { limit: 4, ports: 0, .. }), "{error}");
        assert!(error.to_string().contains("LimitNOFILE"), "{error}");
    }
    assert_eq!(none.available(), 4, "the pool is as before");
}

#[test]
fn released_port_is_the_last_to_be_handed_out() {
    let at = local(1);
    let [a, b, c] = free_ports();
    let pool = pool_of(&[a, 0, b, c, a], Some(at));
    assert_eq!(pool.available(), 3);
    let first = pool.lease().expect("a port");
    assert_eq!((first.port(), pool.available()), (a, 2));
    drop(first);
    assert_eq!(pool.available(), 3);
    let [one, two] = lease_pair(&pool).expect("two ports");
    assert_eq!([one.port(), two.port()], [b, c]);
    assert_eq!(pool.lease().expect("a port").port(), a);
}

#[test]
fn lease_listens_and_its_drop_closes() {
    let at = local(2);
    let [port] = free_ports();
    let pool = pool_of(&[port], Some(at));
    let lease = pool.lease().expect("a port");
    let listener = lease.listener();
    assert_eq!(listener.local_addr().expect("bound"), SocketAddr::new(at, port));
    assert_eq!(listener.accept().expect_err("nobody there").kind(), ErrorKind::WouldBlock);
    let _peer = TcpStream::connect((at, port)).expect("it listens");
    let (accepted, _) = listener.accept().expect("the peer");
    assert!(accepted.nodelay().expect("an option"));
    assert!(sockopt::socket_keepalive(&accepted).expect("an option"));
    assert_eq!(sockopt::tcp_keepidle(&accepted).expect("an option"), limits::KEEPALIVE_IDLE);
    assert_eq!(sockopt::tcp_keepintvl(&accepted).expect("an option"), limits::KEEPALIVE_INTERVAL);
    assert_eq!(sockopt::tcp_keepcnt(&accepted).expect("an option"), limits::KEEPALIVE_TRIES);
    let flags = rustix::io::fcntl_getfd(listener).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    drop(lease);
    assert!(TcpStream::connect((at, port)).is_err());
    // The old connection is still open, and the port can be opened again all the same.
    assert_eq!(pool.lease_port(port).expect("again").port(), port);
}

#[test]
fn port_of_another_program_is_skipped_and_put_back() {
    let at = local(3);
    let [taken, free] = free_ports();
    let other = TcpListener::bind((at, taken)).expect("another program");
    let pool = pool_of(&[taken, free], Some(at));
    let lease = pool.lease().expect("the free one");
    assert_eq!((lease.port(), pool.available()), (free, 1));
    let none = PortError::NoneOpened { tried: 1, port: taken, error: Errno::ADDRINUSE };
    assert_eq!(pool.lease().expect_err("taken"), none);
    assert_eq!(
        none.to_string(),
        format!(
            "none of the 1 free ports tried could be opened; the last was {taken}: another \
             program uses it"
        )
    );
    assert_eq!(pool.lease_port(taken).expect_err("taken"), PortError::Taken(taken));
    assert_eq!(pool.available(), 1);
    drop(other);
    assert_eq!(pool.lease_port(taken).expect("given up").port(), taken);
}

#[test]
fn port_of_a_stored_mapping_is_handed_out_to_nobody_else() {
    let at = local(8);
    let ports @ [a, b, c] = free_ports();
    let pool = pool_of(&ports, Some(at));
    let first = pool.own(a);
    assert_eq!(pool.available(), 2);
    assert_eq!(pool.lease().expect("another one").port(), b);
    // Neither by its closing nor by new settings does it come back.
    drop(pool.lease_port(a).expect("its owner's"));
    pool.replace(&[b, c]);
    pool.replace(&ports);
    assert_eq!(pool.available(), 2);
    let second = pool.own(a);
    drop(first);
    assert_eq!(pool.available(), 2, "two mappings have it");
    let open = pool.lease_port(a).expect("the other one's");
    drop(second);
    assert_eq!(pool.available(), 2, "it is still open");
    drop(open);
    assert_eq!(pool.available(), 3);
    let leased = pool.lease().expect("a port");
    drop(pool.own(leased.port()));
    assert_eq!(pool.available(), 2, "it is leased");
    drop(leased);
    assert_eq!(pool.available(), 3);
}

#[test]
fn stored_ports_are_refused_for_different_reasons() {
    let at = local(4);
    let [a, b, outside] = free_ports();
    let pool = pool_of(&[a, b], Some(at));
    let lease = pool.lease_port(b).expect("free");
    assert_eq!(pool.available(), 1);
    assert_eq!(pool.lease_port(b).expect_err("leased"), PortError::Leased(b));
    assert_eq!(pool.lease_port(outside).expect_err("outside"), PortError::OutsidePool(outside));
    assert_eq!(lease_pair(&pool).map(drop).expect_err("one is left"), PortError::Exhausted);
    assert_eq!(pool.available(), 1, "the first of the pair went back");
    drop(lease);
    assert_eq!(pool.available(), 2);
    assert_eq!(pool_of(&[], None).lease().expect_err("empty"), PortError::Exhausted);
}

#[test]
fn address_of_another_machine_is_never_replaced() {
    let elsewhere: IpAddr = "192.0.2.1".parse().expect("an address");
    let [a, b] = free_ports();
    let pool = pool_of(&[a, b], Some(elsewhere));
    let error = pool.lease().expect_err("not ours");
    assert_eq!(error, PortError::NoneOpened { tried: 1, port: a, error: Errno::ADDRNOTAVAIL });
    assert!(error.to_string().contains("\"listen\""));
    assert_eq!(
        pool.lease_port(a).expect_err("not ours"),
        PortError::Failed { port: a, error: Errno::ADDRNOTAVAIL }
    );
    assert_eq!(pool.available(), 2);
}

#[test]
fn without_listen_both_families_reach_the_port() {
    let [a, b, c, d] = free_ports();
    let pool = pool_of(&[a, b, c, d], None);
    let lease = pool.lease().expect("one of four");
    TcpStream::connect((LOOPBACK, lease.port())).expect("over IPv4");
    if TcpListener::bind("[::1]:0").is_ok() {
        TcpStream::connect(("::1", lease.port())).expect("over IPv6");
    }
}

#[test]
fn replaced_pool_keeps_leases_and_turns() {
    let at = local(5);
    let [a, b, c, d] = free_ports();
    let pool = pool_of(&[a, b, c], Some(at));
    let [one, two] = lease_pair(&pool).expect("two ports");
    pool.replace(&[b, c, d]);
    assert_eq!(pool.available(), 2);
    drop(one);
    assert_eq!(pool.available(), 2, "a is no longer in the pool");
    assert_eq!(pool.lease_port(a).expect_err("outside"), PortError::OutsidePool(a));
    drop(two);
    let order: Vec<Lease> = (0..3).map(|_| pool.lease().expect("a port")).collect();
    assert_eq!(order.iter().map(Lease::port).collect::<Vec<_>>(), [d, c, b]);
    pool.replace(&[a]);
    pool.replace(&[a, b]);
    drop(order);
    assert_eq!(pool.available(), 2);
    assert_eq!(pool.lease().expect("a port").port(), a);
    assert_eq!(pool.lease().expect("a port").port(), b);
}

#[test]
fn wanted_ports_are_given_if_they_are_nobodys() {
    let [stored, free, outside] = free_ports();
    let pool = pool_of(&[stored, free], Some(LOOPBACK));
    let _own = pool.own(stored);
    let lease = |port| pool.lease_free(port).map(|lease| lease.port());
    assert_eq!(lease(stored), Err(PortError::Leased(stored)), "it is not open, and not free");
    assert_eq!(lease(outside), Err(PortError::OutsidePool(outside)));
    assert_eq!(lease(free), Ok(free));
}
