//! The command line: `--name value` and flags, and a command after a lone `--`.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

/// Options without a value.
const FLAGS: &[&str] = &["tls", "again", "forgetful"];

/// What stands behind loadgen's command.
#[derive(Default)]
pub(crate) struct Arguments {
    options: Vec<(String, String)>,
    /// What follows `--`.
    pub(crate) rest: Vec<String>,
}

impl Arguments {
    /// Reads the words; a word that is no option ends the program.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let mut arguments = Arguments::default();
        while let Some(word) = words.next() {
            if word == "--" {
                arguments.rest = words.collect();
                break;
            }
            let Some(name) = word.strip_prefix("--") else {
                die(format_args!("{word}: options begin with --"))
            };
            let value = if FLAGS.contains(&name) {
                String::new()
            } else {
                words.next().unwrap_or_else(|| die(format_args!("--{name} needs a value")))
            };
            arguments.options.push((name.into(), value));
        }
        arguments
    }

    /// Whether a flag is given.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The values of an option, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(given, _)| given == name).map(|(_, value)| &**value)
    }

    /// The last value of an option.
    pub(crate) fn get<T: FromStr>(&self, name: &str) -> Option<T> {
        self.all(name).last().map(|value| {
            value.parse().unwrap_or_else(|_| die(format_args!("--{name}: {value} will not do")))
        })
    }

    /// The last value of an option that must be there.
    pub(crate) fn need<T: FromStr>(&self, name: &str) -> T {
        self.get(name).unwrap_or_else(|| die(format_args!("--{name} is required")))
    }

    /// A port on the loopback address.
    pub(crate) fn port(&self, name: &str) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.need(name))
    }
}

/// Says why on stderr and ends the program.
pub(crate) fn die(why: impl Display) -> ! {
    eprintln!("loadgen: {why}");
    std::process::exit(2)
}
