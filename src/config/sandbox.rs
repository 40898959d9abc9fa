//! The setting `sandbox`.

use std::str::FromStr;

/// What becomes of system calls that a process does not need, and of files that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// They are refused.
    #[default]
    On,
    /// Files as with `On`; the first such call ends the process.
    Kill,
    /// Calls are allowed and noted in the kernel's log, files are not restricted.
    Report,
    /// Nothing.
    Off,
}

impl Sandbox {
    /// The words for it.
    pub const EXPECTED: &str = "one of on, kill, report, off";
}

impl FromStr for Sandbox {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Sandbox::On),
            "kill" => Ok(Sandbox::Kill),
            "report" => Ok(Sandbox::Report),
            "off" => Ok(Sandbox::Off),
            _ => Err(()),
        }
    }
}
