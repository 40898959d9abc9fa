use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::pin;
use std::time::{Duration, Instant};

use smol::future::poll_once;

use super::super::tls::tests::settings;
use super::super::{is_too_many, is_too_much};
use super::*;
use crate::runtime::{block_on, look, until};

/// The connector's end of a connection in TLS, of a stranger; and the other end by hand, whose records may be cut
/// anywhere.
pub(in crate::net::stream) async fn ends() -> (Stream, TcpStream, Tls) {
    let (served, mut client) = settings();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    there.set_nonblocking(true).unwrap();
    let (here, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    let mut accept = pin!(Stream::accept(here, served, |_| {}, || async {}));
    loop {
        there.write_all(&client.wire()).unwrap();
        look().await;
        if let Some(stream) = poll_once(&mut accept).await {
            return (stream.unwrap(), there, client);
        }
        let mut buffer = [0; 32 * 1024];
        match there.read(&mut buffer) {
            Ok(count) => drop(client.hear(buffer[..count].to_vec())),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// Bytes that have come and that nobody has read.
fn unread(stream: &Stream) -> usize {
    rustix::io::ioctl_fionread(stream.socket()).unwrap() as usize
}

/// Waits until so many of them are there: on a busy machine loopback takes its time, too.
async fn come(stream: &Stream, bytes: usize) {
    while unread(stream) < bytes {
        look().await;
    }
}

/// Whether the other end has sent something, once that is known.
async fn spoken(stream: &mut Stream) -> bool {
    let late = Instant::now() + Duration::from_secs(30);
    let spoken = until(late, poll_fn(|context| stream.poll_spoken(context))).await;
    spoken.expect("it is known").unwrap()
}

/// Reads all of so many bytes that come, and the end behind them if it `ends`. Gives the units, and how the last read
/// went: `Ok(false)` for an end.
async fn received(
    stream: &mut Stream,
    bytes: usize,
    ends: bool,
) -> (Vec<Vec<u8>>, io::Result<bool>) {
    let (mut units, mut given) = (Vec::new(), 0);
    come(stream, bytes).await;
    let late = Instant::now() + Duration::from_secs(30);
    loop {
        look().await;
        assert!(Instant::now() < late, "{} units, and no end", units.len());
        // What others on this thread have read meanwhile.
        INCOMING.with_borrow_mut(|buffer| buffer.fill(0xff));
        let unit = &mut |unit: &[u8]| units.push(unit.to_vec());
        let read = poll_fn(|context| Poll::Ready(stream.poll_receive(context, unit))).await;
        let is_left = ends || stream.maybe_readable() || unread(stream) > 0;
        match read {
            Poll::Ready(Ok(Received::Ended)) => {
                assert_eq!(given, units.iter().map(Vec::len).sum::<usize>());
                return (units, Ok(false));
            }
            Poll::Ready(Err(error)) => return (units, Err(error)),
            Poll::Ready(Ok(Received::Bytes(count))) => given += count,
            Poll::Pending if is_left => {}
            Poll::Pending => return (units, Ok(true)),
        }
    }
}

/// Opens what has come, and keeps the first unit.
async fn open_one(stream: &mut Stream) {
    let none = &mut |_: &[u8]| panic!("handed out");
    let opened = poll_fn(|context| Poll::Ready(stream.poll_open(context, true, none))).await;
    assert!(!matches!(opened, Poll::Ready(Err(_) | Ok(Received::Ended))));
}

/// Each piece has been read before the next one comes.
async fn in_pieces(
    stream: &mut Stream,
    there: &mut TcpStream,
    wire: &[u8],
    mut size: impl FnMut() -> usize,
) -> Vec<Vec<u8>> {
    let (mut rest, mut units) = (wire, Vec::new());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(size().min(rest.len()));
        there.write_all(piece).unwrap();
        let (some, open) = received(stream, piece.len(), false).await;
        assert!(open.unwrap());
        units.extend(some);
        rest = more;
    }
    units
}

#[test]
fn units_are_records_wherever_the_reads_end() {
    block_on(async {
        let random = &mut fastrand::Rng::with_seed(7);
        let (mut stream, mut there, mut client) = ends().await;
        stream.trust();
        let tiny = (0..300).map(|number: usize| vec![number as u8; number % 3 + 1]);
        let long = (0..40).map(|number: usize| vec![number as u8; number * 941 % 16_384 + 1]);
        let sent: Vec<_> = tiny.chain(long).collect();
        for longest in [7, 60, 3000, 40_000] {
            let sent = if longest < 100 { &sent[295..305] } else { &sent[..] };
            let wire = client.sealed(sent);
            let got = in_pieces(&mut stream, &mut there, &wire, || random.usize(1..=longest)).await;
            assert!(got == sent, "in pieces of up to {longest}");
            let tls = stream.state.tls.as_ref().unwrap();
            assert_eq!(tls.unopened.capacity() + tls.held.capacity(), 0, "nothing is kept");
        }
    })
    .unwrap();
}

#[test]
fn all_that_has_come_is_given_before_its_end_which_is_cut_without_close_notify() {
    block_on(async {
        for closes in [true, false] {
            let (mut stream, mut there, mut client) = ends().await;
            stream.trust();
            let sent = vec![b"last".to_vec(); 200];
            let mut wire = client.sealed(&sent);
            if closes {
                client.send_close_notify();
                wire.extend(client.wire());
                wire.extend([7; 100]);
            }
            there.write_all(&wire).unwrap();
            there.shutdown(Shutdown::Write).unwrap();
            let (got, open) = received(&mut stream, wire.len(), true).await;
            assert!(got == sent && !open.unwrap());
            assert_eq!(stream.state.tls.as_ref().unwrap().unopened.capacity(), 0);
            assert_eq!((stream.is_cut(), stream.has_sent_close_notify()), (!closes, closes));
        }
    })
    .unwrap();
}

#[test]
fn what_follows_close_notify_is_never_read() {
    block_on(async {
        let (mut stream, mut there, mut client) = ends().await;
        stream.trust();
        client.send_close_notify();
        let mut wire = client.wire();
        wire.extend([7; 100]);
        there.write_all(&wire).unwrap();
        come(&stream, wire.len()).await;
        for _ in 0..2 {
            let (got, open) = received(&mut stream, 0, true).await;
            assert!(got.is_empty() && !open.unwrap());
        }
        assert!(!stream.is_cut());
    })
    .unwrap();
}

#[test]
fn asking_whether_somebody_has_spoken_takes_nothing() {
    block_on(async {
        for sent in [vec![b"first".to_vec(), b"second".to_vec()], vec![vec![7; 10_000]], vec![]] {
            let (mut stream, mut there, mut client) = ends().await;
            let mut wire = client.sealed(&sent);
            client.send_close_notify();
            wire.extend(client.wire());
            // The beginning of a long record is something; that of a short one may carry nothing.
            let (first, rest) = wire.split_at(6);
            there.write_all(first).unwrap();
            come(&stream, first.len()).await;
            let is_long = sent.first().is_some_and(|unit| unit.len() > limits::GREETING);
            if is_long {
                assert!(spoken(&mut stream).await);
            }
            while !is_long && unread(&stream) > 0 {
                look().await;
                assert!(poll_once(spoken(&mut stream)).await.is_none());
            }
            there.write_all(rest).unwrap();
            for _ in 0..2 {
                assert_eq!(spoken(&mut stream).await, !sent.is_empty());
            }
            assert!(stream.maybe_readable());
            let (got, open) = received(&mut stream, 0, true).await;
            assert!(got == sent && !open.unwrap());
        }
    })
    .unwrap();
}

#[test]
fn who_rests_goes_on_after_a_while_and_nothing_is_lost() {
    block_on(async {
        let (mut stream, mut there, mut client) = ends().await;
        stream.trust();
        let sent: Vec<_> = (0..20).map(|number| vec![number]).collect();
        let mut wire = Vec::new();
        for unit in sent.chunks(1) {
            wire.extend(client.nothing(8));
            wire.extend(client.sealed(unit));
        }
        there.write_all(&wire).unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        come(&stream, wire.len()).await;
        let (mut got, mut rested) = (Vec::new(), false);
        while !rested {
            look().await;
            let unit = &mut |unit: &[u8]| got.push(unit.to_vec());
            let read = poll_fn(|context| Poll::Ready(stream.poll_receive(context, unit))).await;
            assert_ne!(read.map(Result::unwrap), Poll::Ready(Received::Ended), "it never rests");
            rested = stream.state.tls.as_ref().unwrap().rests();
        }
        let (more, open) = received(&mut stream, 0, true).await;
        got.extend(more);
        assert!(got == sent && !open.unwrap());
    })
    .unwrap();
}

#[test]
fn part_of_a_record_counts_in_the_turn_and_what_is_only_looked_at_as_held() {
    block_on(async {
        let (mut stream, mut there, mut client) = ends().await;
        let held = |stream: &Stream| stream.state.tls.as_ref().unwrap().unused;
        let sent = [vec![7; 10_000], vec![8; 3000]];
        let [first, second] = [0, 1].map(|number| client.sealed(&sent[number..=number]));
        let (mut came, mut spent) = (0, 0);
        for piece in [500, 2500, 7000] {
            there.write_all(&first[came..came + piece]).unwrap();
            come(&stream, piece).await;
            while unread(&stream) > 0 {
                look().await;
                open_one(&mut stream).await;
                spent += stream.spent();
            }
            came += piece;
            // The first one waits for more, and is not copied then.
            assert!(spent + 500 >= came && held(&stream) == came, "{spent} of {came}");
        }
        there.write_all(&[&first[came..], &second[..2000]].concat()).unwrap();
        come(&stream, first.len() - came + 2000).await;
        while stream.state.tls.as_ref().unwrap().held.is_empty() {
            look().await;
            open_one(&mut stream).await;
        }
        assert!(held(&stream) > 10_000, "the first unit is held");
        let (got, _) = received(&mut stream, 0, false).await;
        assert_eq!(got, sent[..1]);
        assert_eq!(held(&stream), 2000, "what is behind it is");
        there.write_all(&second[2000..]).unwrap();
        let (got, _) = received(&mut stream, second.len() - 2000, false).await;
        assert_eq!(got, sent[1..]);
        assert_eq!(held(&stream), 0, "nothing is");
    })
    .unwrap();
}

#[test]
fn stranger_may_send_so_much_and_one_that_is_trusted_more() {
    block_on(async {
        for trusted in [false, true] {
            let (mut stream, mut there, mut client) = ends().await;
            if trusted {
                stream.trust();
            }
            let sent = vec![vec![7; 1000]; limits::STRANGER_BYTES / 1000 + 2];
            let wire = client.sealed(&sent);
            let most = wire.len();
            let pieces = &mut 0;
            for piece in wire.chunks(4000) {
                there.write_all(piece).unwrap();
                let (_, open) = received(&mut stream, piece.len(), false).await;
                *pieces += piece.len();
                match open {
                    Ok(true) => assert!(trusted || *pieces <= limits::STRANGER_BYTES),
                    Ok(false) => panic!("an end"),
                    Err(error) => {
                        assert!(!trusted && is_too_much(&error) && !is_too_many(&error));
                        assert_eq!(error.to_string(), "it sent 64 KiB and no data");
                        assert!(*pieces > limits::STRANGER_BYTES, "{pieces} of {most}");
                        break;
                    }
                }
            }
        }
    })
    .unwrap();
}
