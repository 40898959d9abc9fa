//! The reader of a certificate's dates.

use iofog_connector::fuzzing::validity;

pub(crate) fn check(data: &[u8]) -> bool {
    let found = validity(data);
    // The last second that fourteen digits can name is in the year 10007.
    assert!(found.iter().flatten().all(|date| *date < 253_700_000_000), "{found:?}");
    // An element says how long it is: what follows the certificate changes nothing, and what is
    // cut off can only make it unreadable.
    let longer = [data, b"\x30\x82\x00\x00rest"].concat();
    if found.is_some() {
        assert_eq!(validity(&longer), found);
    }
    for cut in [data.len() / 2, data.len().saturating_sub(1)] {
        let cut = validity(&data[..cut]);
        assert!(cut.is_none() || cut == found);
    }
    true
}
