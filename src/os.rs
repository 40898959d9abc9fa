//! What the kernel and the service manager are asked: the process's limits and signals, its place
//! among other daemons, its open files, the memory that it gives back, and the cage that it enters. It
//! knows nothing of mappings or connections.

mod cage;
mod files;
mod instance;
mod link;
pub mod memory;
mod notifier;
mod process;
#[cfg(target_arch = "arm")]
mod processor;
pub mod screen;
mod signals;
mod socket;
mod spawner;
pub mod terminal;

pub use cage::Cage;
pub use files::{FileGuard, Files, For};
pub use instance::{Instance, Ownership, config_of, holder, strangers_hold, take_lock};
pub use link::{AsyncLink, Link, Message};
pub use notifier::{Notifier, watchdog_interval};
pub use process::{
    Prepared, abort_on_panic, close_inherited, make_room, prepare, said, supervisor,
};
pub use signals::{Ask, Signals};
pub use socket::listen;
pub use spawner::{REFUSED, Spawner, WATCH, predecessor, serves};
