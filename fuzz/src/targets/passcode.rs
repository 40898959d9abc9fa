//! What an agent's first bytes prove, and which bytes are heartbeats, whatever the pieces they come in.

use iofog_connector::fuzzing::{Checked, Greetings, Passcode, Version, beats, offer};

use crate::input::{Choices, Random, pieces};

const LINES: [(&[u8], Version); 2] = [(b"IOFOG/2 ", Version::Two), (b"IOFOG/3 ", Version::Three)];

pub(crate) fn check(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let length = usize::from(choices.byte() % 48);
    let how = choices.byte();
    let Ok(secret) = std::str::from_utf8(choices.bytes(length)) else { return false };
    let Some(passcode) = Passcode::new(secret) else { return false };
    // Such a one was never handed out, and could not be told from a greeting by a line.
    if LINES.iter().any(|(line, _)| line.starts_with(secret.as_bytes())) {
        return false;
    }
    let greetings = [Greetings::All, Greetings::OneAndTwo, Greetings::Three];
    let greetings = greetings[usize::from(how / 8) % 3];
    let (line, version) = LINES[usize::from(how / 4) % 2];
    let rest = choices.rest();
    let sent = match how % 4 {
        0 => rest.to_vec(),
        1 => [secret.as_bytes(), rest].concat(),
        2 => [line, secret.as_bytes(), b"\n", rest].concat(),
        _ => [line, rest].concat(),
    };
    let expected = model(&sent, secret.as_bytes(), greetings);
    let mut random = Random::of(data);
    for longest in [sent.len(), 1, 3, 20] {
        let (checked, after) = offer(pieces(&sent, longest, &mut random), &passcode, greetings);
        assert_eq!((checked, after.as_slice()), expected, "pieces of {longest}");
    }
    let is_line = LINES.iter().any(|(line, _)| secret.as_bytes().starts_with(line));
    if how % 4 == 2 && !secret.contains('\n') && allows(greetings, version) {
        assert_eq!(expected, (Checked::Proven(version), rest));
    }
    if how % 4 == 1 && !is_line && allows(greetings, Version::One) {
        assert_eq!(expected, (Checked::Proven(Version::One), rest));
    }
    for unit in pieces(rest, 12, &mut random) {
        check_heartbeats(unit);
    }
    true
}

/// What is proved, and what follows the offer.
fn model<'a>(sent: &'a [u8], secret: &[u8], greetings: Greetings) -> (Checked, &'a [u8]) {
    let lines = LINES.iter().filter(|(_, version)| allows(greetings, *version));
    let common = |line: &[u8]| sent.iter().zip(line).take_while(|(a, b)| a == b).count();
    let nearest = lines.map(|(line, version)| (common(line), *version)).max_by_key(|near| near.0);
    let (common, version) = nearest.unwrap();
    let (version, prefix) = match common {
        8 => (version, 8),
        _ if common == sent.len() => return (Checked::Incomplete, &[]),
        _ => (Version::One, 0),
    };
    let offered = &sent[prefix..];
    let (whole, right) = match version {
        // As long as the passcode, and with the byte that tells the version.
        Version::One => (secret.len().max(common + 1), secret.to_vec()),
        Version::Two | Version::Three => {
            let line = offered.iter().position(|&byte| byte == b'\n').map(|end| end + 1);
            let right = [secret, b"\n"].concat();
            (line.unwrap_or(usize::MAX).min(right.len()), right)
        }
    };
    match offered.split_at_checked(whole) {
        None => (Checked::Incomplete, &[]),
        Some((offer, rest)) if offer == right && allows(greetings, version) => {
            (Checked::Proven(version), rest)
        }
        Some((_, rest)) => (Checked::Wrong, rest),
    }
}

fn allows(greetings: Greetings, version: Version) -> bool {
    match greetings {
        Greetings::All => true,
        Greetings::OneAndTwo => version != Version::Three,
        Greetings::Three => version == Version::Three,
    }
}

fn check_heartbeats(unit: &[u8]) {
    let count = unit.len() / 4;
    let only = !unit.is_empty() && unit == b"BEAT".repeat(count);
    assert_eq!(beats(unit, false), if only { count } else { 0 });
    assert_eq!(beats(unit, true), usize::from(unit == b"BEAT"));
}
