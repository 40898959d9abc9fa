//! How long to wait between tries.

use std::time::Duration;

/// Pauses between tries, each twice as long as the one before.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with the first of these pauses; none is longer than the second.
    pub const fn new([first, longest]: [Duration; 2]) -> Self {
        Backoff { next: first, longest }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |count| Duration::from_secs(count);
        let mut backoff = Backoff::new([seconds(1), seconds(5)]);
        let pauses = [(); 5].map(|()| backoff.pause());
        assert_eq!(pauses, [1, 2, 4, 5, 5].map(seconds));
    }
}
