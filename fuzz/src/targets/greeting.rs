//! What the TLS library is shown of a client's first bytes: the same whatever the pieces, and what
//! was sent but for the number of a server name's extension that names no host.

use iofog_connector::fuzzing::pass_client_hello;

use crate::input::{Choices, Random, pieces};

const HEADER: [u8; 3] = [22, 3, 1];

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let how = choices.byte();
    let mut sent = Vec::new();
    let mut name: &[u8] = &[];
    if how % 4 > 0 {
        let length = usize::from(choices.byte() % 90);
        name = choices.bytes(length);
        let record = match how % 4 {
            1 => 1 << 14,
            _ => 1 + usize::from(choices.byte()),
        };
        sent = client_hello(name, record, choices.word(), choices.byte());
    }
    let hello = sent.len();
    sent.extend(choices.rest());

    let mut random = Random::of(data);
    let whole = pass_client_hello([&sent[..]]);
    for longest in [1, 3, 20, 300] {
        let found = pass_client_hello(pieces(&sent, longest, &mut random));
        assert_eq!(found, whole, "pieces of {longest}");
    }
    let (shown, is_done) = whole;
    assert!(shown.len() <= sent.len(), "more than was sent");
    let others: Vec<usize> = (0..shown.len()).filter(|&at| shown[at] != sent[at]).collect();
    // Two bytes of each of two greetings.
    assert!(others.len() % 2 == 0 && others.len() <= 4, "{others:?} are others");
    assert!(!is_done || others.is_empty());
    for pair in others.chunks(2) {
        assert_eq!([sent[pair[0]], sent[pair[1]]], [0, 0]);
        assert_eq!([shown[pair[0]], shown[pair[1]]], [0xff, 0x5a]);
    }
    if hello > 0 {
        assert!(shown.len() >= hello, "a whole greeting is held");
        let changed = others.first().is_some_and(|&at| at < hello);
        if is_a_hosts(name) {
            assert!(!changed && is_done && shown == sent, "{name:?} is a host's name");
        }
        if name.is_empty() || name.iter().any(|byte| b"*[]/ ".contains(byte)) {
            assert!(changed, "{name:?} is no host's name");
        }
    }
    true
}

/// A name as RFC 1123 has it, no label of which is a number: it might be meant for an address.
fn is_a_hosts(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        let ends = [label.first(), label.last()];
        (1..=63).contains(&label.len())
            && ends.into_iter().flatten().all(|byte| *byte != b'-')
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    let is_number = |label: &[u8]| match label {
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        label => label.iter().all(u8::is_ascii_digit),
    };
    name.split(|byte| *byte == b'.').all(|label| is_label(label) && !is_number(label))
}

/// A greeting for `name`, in records of so many bytes; `others` more extensions, before and behind.
fn client_hello(name: &[u8], record: usize, number: u16, others: u8) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let other = |at: u8| {
        // The name's own number must not come twice.
        let number = number.wrapping_add(at.into()).max(1);
        [&number.to_be_bytes()[..], &counted(&vec![at; usize::from(at) * 7])].concat()
    };
    let host = [&[0][..], &counted(name)].concat();
    let sni = [&[0, 0][..], &counted(&counted(&host))].concat();
    let before = (0..others % 8).flat_map(other);
    let behind = (0..others / 32).flat_map(other);
    let extensions: Vec<u8> = before.chain(sni).chain(behind).collect();
    let mut body = vec![3; 34];
    let session = usize::from(others % 33);
    body.push(session as u8);
    body.extend(vec![7; session]);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend(counted(&extensions));
    let message = [&[1, 0][..], &counted(&body)].concat();
    message.chunks(record).flat_map(|part| [&HEADER[..], &counted(part)].concat()).collect()
}
