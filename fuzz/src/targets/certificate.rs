//! The reader of a certificate's dates.

use iofog_connector::fuzzing::validity;

pub(crate) fn check(data: &[u8]) -> bool {
    let found = validity(data);
    if let Some(dates) = &found {
        for date in dates {
            // As text they must compare as times do.
            let shape = date.bytes().zip("0000-00-00T00:00:00Z".bytes());
            assert_eq!(date.len(), 20, "{date}");
            assert!(shape.into_iter().all(|(byte, place)| match place {
                b'0' => byte.is_ascii_digit(),
                _ => byte == place,
            }));
        }
    }
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
