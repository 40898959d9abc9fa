//! What an agent's first bytes prove, and which bytes are heartbeats: version 1 and 2, whatever
//! the pieces they come in.

use iofog_connector::fuzzing::{Checked, Passcode, Version, beats, offer};

use crate::input::{Choices, Random, pieces};

const VERSION_TWO: &[u8] = b"IOFOG/2 ";

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let length = usize::from(choices.byte() % 48);
    let how = choices.byte();
    let Ok(secret) = std::str::from_utf8(choices.bytes(length)) else { return false };
    let Some(passcode) = Passcode::new(secret) else { return false };
    // Such a one was never handed out, and could not be told from a greeting of version 2.
    if VERSION_TWO.starts_with(secret.as_bytes()) {
        return false;
    }
    let rest = choices.rest();
    let sent = match how % 4 {
        0 => rest.to_vec(),
        1 => [secret.as_bytes(), rest].concat(),
        2 => [VERSION_TWO, secret.as_bytes(), b"\n", rest].concat(),
        _ => [VERSION_TWO, rest].concat(),
    };
    let expected = model(&sent, secret.as_bytes());
    let mut random = Random::of(data);
    for longest in [sent.len(), 1, 3, 20] {
        let (checked, after) = offer(pieces(&sent, longest, &mut random), &passcode);
        assert_eq!((checked, after.as_slice()), expected, "pieces of {longest}");
    }
    if how % 4 == 2 && !secret.contains('\n') {
        assert_eq!(expected, (Checked::Proven(Version::Two), rest));
    }
    if how % 4 == 1 && !secret.starts_with("IOFOG/2 ") {
        assert_eq!(expected, (Checked::Proven(Version::One), rest));
    }
    for unit in pieces(rest, 12, &mut random) {
        check_heartbeats(unit);
    }
    true
}

/// What is proved, and what follows the offer.
fn model<'a>(sent: &'a [u8], secret: &[u8]) -> (Checked, &'a [u8]) {
    let common = sent.iter().zip(VERSION_TWO).take_while(|(a, b)| a == b).count();
    let (version, prefix) = match common {
        8 => (Version::Two, 8),
        _ if common == sent.len() => return (Checked::Incomplete, &[]),
        _ => (Version::One, 0),
    };
    let offered = &sent[prefix..];
    let (whole, right) = match version {
        // As long as the passcode, and with the byte that tells the version.
        Version::One => (secret.len().max(common + 1), secret.to_vec()),
        Version::Two => {
            let line = offered.iter().position(|&byte| byte == b'\n').map(|end| end + 1);
            let right = [secret, b"\n"].concat();
            (line.unwrap_or(usize::MAX).min(right.len()), right)
        }
    };
    match offered.split_at_checked(whole) {
        None => (Checked::Incomplete, &[]),
        Some((offer, rest)) if offer == right => (Checked::Proven(version), rest),
        Some((_, rest)) => (Checked::Wrong, rest),
    }
}

fn check_heartbeats(unit: &[u8]) {
    let count = unit.len() / 4;
    let only = !unit.is_empty() && unit == b"BEAT".repeat(count);
    assert_eq!(beats(unit, false), if only { count } else { 0 });
    assert_eq!(beats(unit, true), usize::from(unit == b"BEAT"));
}
