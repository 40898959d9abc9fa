//! A set of ports.

/// A bit for each number.
#[derive(Debug)]
pub(super) struct PortSet(Box<[u64]>);

impl Default for PortSet {
    fn default() -> Self {
        PortSet(vec![0; (usize::from(u16::MAX) + 1) / 64].into())
    }
}

impl PortSet {
    /// Whether this port is in it.
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Adds this port; gives whether it was not there before.
    pub(super) fn insert(&mut self, port: u16) -> bool {
        let new = !self.contains(port);
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
        new
    }

    /// Those that are not in `others` too, ascending.
    pub(super) fn without(&self, others: &PortSet) -> Vec<u16> {
        let mut ports = Vec::new();
        for (place, (own, other)) in self.0.iter().zip(&others.0).enumerate() {
            let mut left = own & !other;
            while left != 0 {
                ports.push((64 * place + left.trailing_zeros() as usize) as u16);
                left &= left - 1;
            }
        }
        ports
    }

    /// Takes this port out.
    pub(super) fn remove(&mut self, port: u16) {
        self.0[usize::from(port / 64)] &= !(1 << (port % 64));
    }
}
