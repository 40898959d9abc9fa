//! Ports that no other test uses, though tests run in many threads and processes at once.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use rustix::fs::{FlockOperation, flock};

/// Ports are handed out in units of so many.
const UNIT: u16 = 32;

/// A block of free ports, held by locked files until it is dropped.
pub struct PortBlock {
    /// The first port of the block.
    pub first: u16,
    /// How many there are.
    pub len: u16,
    _locks: Vec<File>,
}

impl PortBlock {
    /// Takes at least `len` consecutive ports outside the range that the kernel gives to
    /// outgoing connections, so that no client's own port can be in the way.
    pub fn take(len: u16) -> Self {
        let folder = std::env::temp_dir().join("iofog-connector-test-ports");
        fs::create_dir_all(&folder).expect("folder for port locks");
        let units = len.div_ceil(UNIT);
        let (low, high) = ephemeral();
        for _ in 0..10_000 {
            let first = fastrand::u16(10_000 / UNIT..60_000 / UNIT) * UNIT;
            let Some(last) = first.checked_add(units * UNIT - 1) else { continue };
            if first <= high && last >= low {
                continue;
            }
            let locks: Option<Vec<File>> = (0..units)
                .map(|unit| {
                    let name = folder.join(format!("{}.lock", first + unit * UNIT));
                    let file = File::options().create(true).append(true).open(name).ok()?;
                    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
                    Some(file)
                })
                .collect();
            let Some(locks) = locks else { continue };
            if (first..=last).all(free) {
                return PortBlock { first, len: units * UNIT, _locks: locks };
            }
        }
        panic!("no block of {len} free ports found");
    }

    /// Every port of the block.
    pub fn all(&self) -> impl Iterator<Item = u16> {
        self.first..self.first + self.len
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()
}

fn ephemeral() -> (u16, u16) {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().map_while(|end| end.parse().ok());
    (ends.next().unwrap_or(32_768), ends.next().unwrap_or(60_999))
}
