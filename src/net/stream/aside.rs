//! Which of the bytes that a peer has not acknowledged are a session's, as a value: heartbeats, their answers, and
//! what else ends sent beside a session say nothing of whether the peer takes any of it.

/// Bytes on the wire behind the last ones of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Aside(usize);

impl Aside {
    /// So many more were sent.
    pub(super) fn and(self, bytes: usize) -> Self {
        Aside(self.0 + bytes)
    }

    /// Whether any of a session's are among so many that were sent last.
    pub(super) fn is_exceeded_by(self, last: usize) -> bool {
        last > self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_session_wait_as_long_as_more_do_than_were_sent_behind_them() {
        let session = Aside::default();
        assert!(session.is_exceeded_by(1) && !session.is_exceeded_by(0));
        let behind = session.and(4).and(22);
        assert!(behind.is_exceeded_by(27), "its last byte waits");
        assert!(!behind.is_exceeded_by(26), "all that waits are heartbeats");
        assert!(!behind.is_exceeded_by(0));
    }
}
