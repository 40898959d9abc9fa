//! One session: two legs, bytes both ways, an ending, and what is left on its tunnel.

mod drain;
mod ending;
mod leg;
mod progress;
mod relay;
mod residue;
mod traffic;
mod voice;

pub use drain::{Drain, Drained, Outcome};
pub use ending::{Ended, Ending};
pub use leg::Endpoint;
pub use relay::{FormerUser, Relay};
pub use residue::{Leaving, Missing, Residue, Verdict};
pub use traffic::Traffic;
pub use voice::Voice;
