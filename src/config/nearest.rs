//! The key that somebody probably meant.

/// Characters of a key or a value that fit a line.
pub(super) const FITS: usize = 60;

/// The known key that was probably meant: the one that the fewest changed letters make, if those
/// are at most a third of the key. Case, `-` and `_` do not count.
pub fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain: Vec<char> = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .take(32)
        .collect();
    known
        .iter()
        .map(|name| (distance(&plain, name), *name))
        .filter(|(changes, name)| *changes <= name.len().div_ceil(3).min(3))
        // Who stops in the middle of a word means that one.
        .min_by_key(|(changes, name)| (!name.starts_with(key), *changes))
        .map(|(_, name)| name)
}

/// How many letters must be added, taken out or changed to turn `a` into `b`.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, letter) in b.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in a.iter().enumerate() {
            let changed = diagonal + usize::from(*other != letter);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key_is_found_or_none() {
        const KNOWN: &[&str] = &["ports", "dev", "api", "userwait", "loglevel", "controllerca"];
        for (key, near) in [
            ("port", Some("ports")),
            ("Ports", Some("ports")),
            ("user_wait", Some("userwait")),
            ("userWiat", Some("userwait")),
            ("log-level", Some("loglevel")),
            ("controllerCA", Some("controllerca")),
            ("userw", Some("userwait")),
            ("debug", None),
            ("comment", None),
            ("", None),
        ] {
            assert_eq!(nearest(key, KNOWN), near, "{key}");
        }
    }
}
