//! Tunnels of version 3, one frame at a time, from either end (protocol page, section 8).

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::{
    Authority, Folder, Got, Header, Link, Mode, PASSCODE, PATIENCE, assert_same, eventually,
};

/// The longest payload of a `D`.
pub const DATA: usize = 262_144;

/// The bytes of one frame, or of what looks like one.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&head(kind, payload.len()), payload].concat()
}

/// The four bytes before a payload of this length.
pub fn head(kind: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).expect("a length").to_be_bytes();
    [kind, a, b, c]
}

/// These bytes as frames of at most 256 KiB.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(DATA).map(|piece| frame(b'D', piece)).collect::<Vec<_>>().concat()
}

/// One end of a tunnel.
pub struct Framed {
    /// The connection.
    pub link: Link,
    /// Users that wait, as `W` has told this agent.
    pub wanted: u32,
    /// Heartbeats that have come.
    pub beats: u32,
    /// Whether this connector leaves heartbeats unanswered.
    pub mute: bool,
    is_agent: bool,
    /// Whether `E` was said in this session, and whether it was heard. Once both are so the agent says `S`, and the
    /// connector hears it, without the test's doing.
    ended: [bool; 2],
    unread: Vec<u8>,
    /// What has come in `D` and was not asked for yet.
    data: Vec<u8>,
}

impl Framed {
    fn over(mut link: Link, is_agent: bool) -> Self {
        let (unread, data) = (link.take_unread(), Vec::new());
        let ended = [false; 2];
        Framed { link, wanted: 0, beats: 0, mute: false, is_agent, ended, unread, data }
    }

    /// An agent that proves this passcode.
    #[track_caller]
    pub fn agent(mut link: Link, passcode: &str) -> Self {
        link.send(format!("IOFOG/3 {passcode}\n").as_bytes());
        link.expect(b"IOFOG/3 AUTHORIZED\n");
        Self::over(link, true)
    }

    /// A connector that is shown this passcode, and accepts it.
    #[track_caller]
    pub fn connector(mut link: Link, passcode: &str) -> Self {
        link.expect(format!("IOFOG/3 {passcode}\n").as_bytes());
        link.send(b"IOFOG/3 AUTHORIZED\n");
        Self::over(link, false)
    }

    /// Sends a frame.
    #[track_caller]
    pub fn say(&mut self, kind: u8, payload: &[u8]) {
        if kind == b'O' && !self.is_agent && self.ended == [true; 2] {
            // Before, the agent is not idle.
            self.until_over();
        }
        self.link.send(&frame(kind, payload));
        self.note(0, kind);
    }

    /// The next frame, which must come, without anything being said for it.
    #[track_caller]
    pub fn hear_only(&mut self) -> (u8, Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.parsed() {
                self.ended = [false; 2];
                return frame;
            }
            if let Err(end) = self.read_by(deadline) {
                panic!("{end:?} instead of a frame");
            }
        }
    }

    /// A connector waits until the agent has said that it has seen the end of the session.
    #[track_caller]
    pub fn until_over(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.ended == [true; 2] {
            if let Some((kind, payload)) = self.parsed() {
                if let Some((kind, _)) = self.taken(kind, payload) {
                    panic!("{} instead of S behind the end", char::from(kind));
                }
            } else if let Err(end) = self.read_by(deadline) {
                panic!("{end:?} instead of S behind the end");
            }
        }
    }

    /// What is left of a frame when what is not the test's business was done.
    fn taken(&mut self, kind: u8, payload: Vec<u8>) -> Option<(u8, Vec<u8>)> {
        let were_both = self.ended == [true; 2];
        self.note(1, kind);
        match (kind, self.is_agent) {
            (b'S', false) if were_both => self.ended = [false; 2],
            (b'W', true) => {
                self.wanted += u32::from(u16::from_be_bytes([payload[0], payload[1]]));
            }
            (b'P', false) => {
                self.beats += 1;
                if !self.mute {
                    let _ = self.link.try_send(&frame(b'p', b""));
                }
            }
            _ => return Some((kind, payload)),
        }
        None
    }

    /// Notes a frame that was said (0) or heard (1): an agent's session is over with the second `E`.
    fn note(&mut self, way: usize, kind: u8) {
        match kind {
            b'E' => self.ended[way] = true,
            b'O' | b'X' | b'F' => self.ended = [false; 2],
            _ => {}
        }
        if self.is_agent && self.ended == [true; 2] {
            self.ended = [false; 2];
            let _ = self.link.try_send(&frame(b'S', b""));
        }
    }

    /// Sends these bytes of the session.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.link.send(&data(bytes));
    }

    /// Has these bytes of the session sent whenever this end reads.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.link.queue(&data(bytes)).expect("queue");
    }

    /// Has the end of this end's direction sent behind them.
    pub fn queue_end(&mut self) {
        self.link.queue(&frame(b'E', b"")).expect("queue");
        self.note(0, b'E');
    }

    /// The next frame, or how the tunnel ended. An agent counts what `W` tells, a connector answers
    /// heartbeats; neither is given.
    #[track_caller]
    pub fn next_by(&mut self, deadline: Instant) -> Result<(u8, Vec<u8>), Got> {
        if !self.data.is_empty() {
            return Ok((b'D', std::mem::take(&mut self.data)));
        }
        loop {
            while let Some((kind, payload)) = self.parsed() {
                if let Some(frame) = self.taken(kind, payload) {
                    return Ok(frame);
                }
            }
            self.read_by(deadline)?;
        }
    }

    /// A frame from the front of what was read, which is of a kind and a length that this end may get.
    #[track_caller]
    fn parsed(&mut self) -> Option<(u8, Vec<u8>)> {
        let [kind, a, b, c] = *self.unread.first_chunk()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let kinds: &[u8] = if self.is_agent { b"pODEXWB" } else { b"PSAFDEXB" };
        let fits = match kind {
            b'D' => (1..=DATA).contains(&length),
            b'F' | b'X' => length <= 200,
            b'O' => (16..=1024).contains(&length),
            b'W' => length == 2,
            _ => length == 0,
        };
        assert!(kinds.contains(&kind) && fits, "{:?} of {length} bytes", char::from(kind));
        let payload = self.unread.get(4..4 + length)?.to_vec();
        self.unread.drain(..4 + length);
        if matches!(kind, b'F' | b'X') {
            std::str::from_utf8(&payload).expect("a reason in UTF-8");
        }
        Some((kind, payload))
    }

    /// Reads once, and sends what waits meanwhile.
    fn read_by(&mut self, deadline: Instant) -> Result<(), Got> {
        loop {
            // One that cannot be written may still have something to read.
            let flushed = self.link.push().unwrap_or(true);
            match self.link.read_now(DATA) {
                Some(Got::Bytes(bytes)) => {
                    self.unread.extend(bytes);
                    return Ok(());
                }
                Some(end) => return Err(end),
                None if self.link.wait(true, !flushed, deadline) => {}
                None => return Err(Got::Late),
            }
        }
    }

    /// The next frame, which must come.
    #[track_caller]
    pub fn hear(&mut self) -> (u8, Vec<u8>) {
        match self.next_by(Instant::now() + PATIENCE) {
            Ok(frame) => frame,
            Err(end) => panic!("{end:?} instead of a frame"),
        }
    }

    /// Expects a frame of this type next, and gives its payload.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) -> Vec<u8> {
        let (got, payload) = self.hear();
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(100)]);
        let (got, kind) = (char::from(got), char::from(kind));
        assert!(got == kind, "{got} {shown:?} instead of {kind}");
        payload
    }

    /// So many bytes of the session.
    #[track_caller]
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(self.expect(b'D'));
        }
        self.data = all.split_off(count);
        all
    }

    /// Expects these bytes of the session next.
    #[track_caller]
    pub fn expect_data(&mut self, bytes: &[u8]) {
        assert_same(&self.exactly(bytes.len()), bytes, "the session's bytes");
    }

    /// Sends `out` and receives `count` bytes of the session at the same time.
    #[track_caller]
    pub fn exchange(&mut self, out: &[u8], count: usize) -> Vec<u8> {
        self.queue(out);
        let all = self.exactly(count);
        self.link.try_send(b"").expect("the rest is sent");
        all
    }

    /// Expects nothing to happen for this long.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        if let Ok((kind, payload)) = self.next_by(Instant::now() + time) {
            let kind = char::from(kind);
            panic!("{kind} of {} bytes where nothing was to come", payload.len());
        }
    }

    /// Expects the tunnel to end without another frame, and says how it did.
    #[track_caller]
    pub fn expect_closed(&mut self) -> Got {
        match self.next_by(Instant::now() + PATIENCE) {
            Ok((kind, payload)) => {
                panic!("{} of {} bytes before the close", char::from(kind), payload.len())
            }
            Err(Got::Late) => panic!("still open"),
            Err(end) => end,
        }
    }

    /// Reads until the tunnel has ended, whatever comes before.
    #[track_caller]
    pub fn until_closed(&mut self) -> Got {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_by(deadline) {
                Ok(_) => {}
                Err(Got::Late) => panic!("still open"),
                Err(end) => return end,
            }
        }
    }

    // As an agent

    /// Sends a heartbeat, and expects its answer next.
    #[track_caller]
    pub fn beat_and_answer(&mut self) {
        self.say(b'P', b"");
        self.expect(b'p');
    }

    /// Expects a session's beginning, and says who comes.
    #[track_caller]
    pub fn opened(&mut self) -> Header {
        Header::of(&self.expect(b'O'))
    }

    /// Says that it has seen the beginning, and that its service is reached.
    #[track_caller]
    pub fn accept(&mut self) {
        self.link.send(&[frame(b'S', b""), frame(b'A', b"")].concat());
    }

    /// The next session's beginning; what of the last one still comes after an `F` is thrown away.
    #[track_caller]
    pub fn opened_after_failure(&mut self) -> Header {
        loop {
            match self.hear() {
                (b'D' | b'E' | b'X', _) => {}
                (b'O', header) => return Header::of(&header),
                (kind, _) => panic!("{} after F", char::from(kind)),
            }
        }
    }

    // As a connector

    /// Begins a session, and expects that it is seen.
    #[track_caller]
    pub fn open(&mut self) {
        self.say(b'O', &Header::local());
        self.expect(b'S');
    }
}

/// A connector of the test's own, which takes tunnels one at a time.
pub struct StandIn {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    folder: Folder,
}

impl StandIn {
    /// One that speaks version 3: in TLS it selects the name.
    pub fn new(mode: Mode) -> Self {
        Self::selecting(mode, &[b"iofog-tunnel"])
    }

    /// One that selects these names in TLS.
    pub fn selecting(mode: Mode, names: &[&[u8]]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        listener.set_nonblocking(true).expect("a socket");
        let folder = Folder::new();
        let tls = (mode == Mode::Tls).then(|| {
            let authority = Authority::new("the authority");
            folder.file("ca", authority.pem(), 0o644);
            let mut config = ServerConfig::clone(&authority.sign(&["localhost"]).serving());
            config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        });
        StandIn { listener, tls, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("address")
    }

    /// How `tunnel` is told to trust it.
    pub fn trust(&self) -> Vec<String> {
        match &self.tls {
            None => vec!["--plain".into()],
            Some(_) => {
                let ca = self.folder.join("ca");
                vec!["--ca".into(), ca.to_str().expect("UTF-8").into()]
            }
        }
    }

    /// The next connection that is there by now.
    #[track_caller]
    pub fn try_accept(&self) -> Option<Link> {
        let (socket, _) = self.listener.accept().ok()?;
        Some(Link::accepted(socket, self.tls.as_ref()).expect("a handshake"))
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> Link {
        eventually("the agent dials", || self.try_accept())
    }

    /// The next tunnel, of version 3.
    #[track_caller]
    pub fn tunnel(&self) -> Framed {
        Framed::connector(self.accept(), PASSCODE)
    }
}
