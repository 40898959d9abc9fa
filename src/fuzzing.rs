//! What the targets in `fuzz/` use of this crate. Built with the feature `fuzzing` alone, which no
//! package has.

use serde_json::Value;

use crate::agent;
use crate::api;
use crate::mappings::mapping::Alteration;
use crate::mappings::store;
use crate::tls;
use crate::wire::greeting::Offer;

pub use crate::config::Config;
pub use crate::http::{
    Fault, Handler, Patience, Request, Response, Source, Wire, serve_connection,
};
pub use crate::mappings::mapping::{
    AgentLimits, AgentPort, Mapping, NewMapping, NewPipe, Passcode, Pipe,
};
pub use crate::mappings::options::Options;
pub use crate::net::conduit::{Conduit, allow as allow_conduits};
pub use crate::net::stream::Stream;
pub use crate::runtime::{block_on, sleep};
pub use crate::session::{
    Ended, Ending, Endpoint, Kept, Parting, Protocol, Relay, Settling, Silence, Traffic,
};
pub use crate::tls::handshake::Handshake;
pub use crate::tls::records::{Opened, Records};
pub use crate::tls::{CERTIFICATE, Identity, Trusted, client_config};
pub use crate::wire::frames;
pub use crate::wire::greeting::{Checked, Greetings, Version};
pub use crate::wire::heartbeat::beats;
pub use crate::wire::proxy::{NoHeader, end as header_end, header, source};

/// The bounds that the targets hold the crate to.
pub mod limits {
    pub use crate::limits::{
        DIRECT_CERTIFICATE, HTTP_BODY, HTTP_HEAD, OPEN_WAIT, PROXY_HEADER, QUIET_LATE, SEEN_WAIT,
    };
}

/// What a request to the API asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The kind of call.
    pub call: &'static str,
    /// Its parameters, in the order of the protocol page.
    pub values: Vec<String>,
    /// The pipe of `mapping/add`.
    pub mapping: Option<NewMapping>,
}

/// What `request` asks for, or the status code and text of the refusal.
pub fn call(request: &Request) -> Result<Asked, (u16, String)> {
    use api::call::{Call, Command};
    let ask = |call, values| Asked { call, values, mapping: None };
    let call = Call::parse(request).map_err(|error| (error.status(), error.to_string()))?;
    Ok(match call {
        Call::AddMapping(mapping) => {
            Asked { call: "mapping/add", values: Vec::new(), mapping: Some(mapping) }
        }
        Call::ChangeMapping(id, Alteration::Members(members)) => {
            ask("mapping/change", vec![id.into(), Value::Object(members).to_string()])
        }
        Call::ChangeMapping(id, Alteration::Passcode(side)) => {
            ask("mapping/passcode", vec![id.into(), (side + 1).to_string()])
        }
        Call::RemoveMapping(id) => ask("mapping/remove", vec![id.into()]),
        Call::StatusOfAll => ask("status", vec!["all".into()]),
        Call::StatusOf(id) => ask("status", vec![id.into()]),
        Call::Command(command) => {
            let word = match command {
                Command::Status => "status",
                Command::Version => "version",
                Command::Help => "help",
                Command::Stop => "stop",
                Command::Upgrade => "upgrade",
                Command::Dump => "dump",
            };
            ask("commandline", vec![word.into()])
        }
        Call::AddDirect => ask("direct/add", Vec::new()),
        Call::RemoveDirect(id) => ask("direct/remove", vec![id.into()]),
        Call::MeetDirect { id, passkey, candidate } => {
            let (ip, port) = (candidate.ip.to_string(), candidate.port.to_string());
            let values = vec![id.into(), passkey.0.into(), ip, port, candidate.certificate.into()];
            ask("direct", values)
        }
        Call::FullStatus => ask("GET status", Vec::new()),
        Call::Metrics => ask("GET metrics", Vec::new()),
        Call::Page => ask("GET page", Vec::new()),
    })
}

/// The mappings of a `configs.json`, or what is wrong with it.
pub fn state(text: &[u8]) -> Result<Vec<Mapping>, Vec<String>> {
    store::format::read(text)
}

/// The `configs.json` of these mappings.
pub fn state_text(mappings: &[Mapping]) -> Vec<u8> {
    store::format::write(mappings)
}

/// What an agent's first bytes, in these pieces, prove, and what follows them.
pub fn offer<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    passcode: &Passcode,
    greetings: Greetings,
) -> (Checked, Vec<u8>) {
    let mut offer = Offer::new(passcode.len(), greetings);
    let mut rest = Vec::new();
    for piece in pieces {
        rest.extend_from_slice(offer.take(piece));
    }
    (offer.check(|offered| passcode.matches(offered)), rest)
}

/// What an agent of version 2 makes of a waiting tunnel's `input`.
pub fn understand(input: &mut Vec<u8>) -> Result<Option<Vec<u8>>, ()> {
    agent::tunnel::understand(input)
}

/// What the TLS library is shown of what a client sends first, in these pieces; and whether nothing
/// more will be changed, and nothing was.
pub fn pass_client_hello<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut hello = tls::sni::ClientHello::default();
    let shown = pieces.into_iter().flat_map(|piece| hello.pass(piece)).collect();
    (shown, hello.is_done())
}

/// A certificate's notBefore and notAfter, in seconds since the epoch.
pub fn validity(certificate: &[u8]) -> Option<[u64; 2]> {
    tls::der::validity(certificate).map(|dates| dates.map(|date| date.0))
}
