//! A stand-in agent: keeps tunnels open and carries each session to a backend. One thread,
//! edge-triggered epoll, one read buffer for all.

use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::arguments::{Arguments, die};
use crate::backend::CHUNK;
use crate::sys::{self, EDGE, ENDED, Epoll, Event, IN, OUT};
use crate::tls;
use crate::tunnel::{Side, Stage, Terms, Tunnel, Version};

const WATCHED: u32 = IN | OUT | ENDED | EDGE;

/// Tunnels that may be proving their passcode at one time; a connector allows 128 as a rule.
const PROVING: usize = 32;

/// Parts of the heartbeat's interval: the tunnels take turns, so that the beats spread.
const SLOTS: u64 = 16;

/// A refused tunnel is tried again after so many nanoseconds.
const AGAIN: u64 = 50_000_000;

struct Agent {
    terms: Terms,
    target: SocketAddrV4,
    tls: Option<Arc<ClientConfig>>,
    epoll: Epoll,
    places: Vec<Place>,
    buffer: Vec<u8>,
    /// Places whose tunnel is to be opened.
    vacant: Vec<usize>,
    /// The same, but refused.
    refused: Vec<usize>,
    /// Places whose turn ended before they were done.
    busy: Vec<usize>,
    proving: usize,
    authorized: usize,
}

/// Where one tunnel after the other lives. Events carry the generation of theirs.
#[derive(Default)]
struct Place {
    tunnel: Option<Tunnel>,
    generation: u32,
}

/// Keeps `--connections` tunnels open until killed; prints `READY` when all are authorized.
pub(crate) fn run(arguments: &Arguments) {
    let version = match arguments.get("version").unwrap_or(1) {
        1 => Version::One,
        2 => Version::Two,
        _ => die("--version: 1 or 2"),
    };
    let terms =
        Terms { version, passcode: arguments.need("passcode"), backend: arguments.port("backend") };
    let connections: usize = arguments.get("connections").unwrap_or(60);
    let mut agent = Agent {
        terms,
        target: arguments.port("target"),
        tls: tls::config(arguments),
        epoll: Epoll::new().unwrap_or_else(|error| die(error)),
        places: (0..connections).map(|_| Place::default()).collect(),
        buffer: vec![0; CHUNK],
        vacant: (0..connections).rev().collect(),
        refused: Vec::new(),
        busy: Vec::new(),
        proving: 0,
        authorized: 0,
    };
    if let Err(error) = agent.serve(arguments.get("beat-ms").unwrap_or(20_000)) {
        die(format_args!("agent: {error}"));
    }
}

impl Agent {
    fn serve(&mut self, beat_ms: u64) -> io::Result<()> {
        let step = (beat_ms * 1_000_000 / SLOTS).max(1_000_000);
        let (mut next_beat, mut slot) = (sys::now() + step, 0);
        let (mut next_try, mut ready) = (0, false);
        let mut events = Vec::new();
        loop {
            while self.proving < PROVING {
                let Some(place) = self.vacant.pop() else { break };
                self.open(place);
            }
            if !ready && self.authorized == self.places.len() {
                ready = true;
                println!("READY {} tunnels", self.authorized);
                io::stdout().flush()?;
            }
            let idle = self.busy.is_empty();
            let until_beat = next_beat.saturating_sub(sys::now()) / 1_000_000;
            let longest = if self.refused.is_empty() { 200 } else { 10 };
            self.epoll.wait(&mut events, if idle { until_beat.min(longest) as i32 + 1 } else { 0 });
            self.take_events(&events);
            let now = sys::now();
            if now >= next_beat {
                next_beat += step;
                slot = (slot + 1) % SLOTS;
                self.beat(slot);
            }
            if now >= next_try {
                next_try = now + AGAIN;
                self.vacant.append(&mut self.refused);
            }
        }
    }

    fn take_events(&mut self, events: &[Event]) {
        for &(flags, number) in events {
            let (place, far, generation) =
                ((number >> 33) as usize, number >> 32 & 1 == 1, number as u32);
            let Place { tunnel: Some(tunnel), generation: current } = &mut self.places[place]
            else {
                continue;
            };
            if *current != generation {
                continue;
            }
            match &mut tunnel.far {
                Some(side) if far => side.note(flags),
                _ if !far => tunnel.near.note(flags),
                _ => {}
            }
            self.drive(place);
        }
        for place in std::mem::take(&mut self.busy) {
            self.drive(place);
        }
    }

    fn beat(&mut self, slot: u64) {
        for place in (slot as usize..self.places.len()).step_by(SLOTS as usize) {
            if let Some(tunnel) = &mut self.places[place].tunnel {
                if tunnel.beat().is_err() {
                    self.end(place);
                }
            }
        }
    }

    fn watch(&self, side: &Side, place: usize, far: bool) -> io::Result<()> {
        let generation = u64::from(self.places[place].generation);
        let number = (place as u64) << 33 | u64::from(far) << 32 | generation;
        self.epoll.add(side.fd, WATCHED, number)
    }

    fn open(&mut self, place: usize) {
        let Ok(fd) = sys::connect(&self.target) else {
            self.refused.push(place);
            return;
        };
        let tls = self.tls.as_ref().map(|config| Box::new(tls::session(config)));
        let tunnel = Tunnel::new(fd, tls);
        self.places[place].generation = self.places[place].generation.wrapping_add(1);
        if let Err(error) = self.watch(&tunnel.near, place, false) {
            die(error);
        }
        self.places[place].tunnel = Some(tunnel);
        self.proving += 1;
    }

    fn drive(&mut self, place: usize) {
        let Some(tunnel) = &mut self.places[place].tunnel else { return };
        let was_authorized = tunnel.is_authorized();
        let stage = tunnel.stage;
        let stepped = tunnel.step(&self.terms, &mut self.buffer);
        if !was_authorized && tunnel.is_authorized() {
            self.proving -= 1;
            self.authorized += 1;
        }
        let dialled = tunnel.stage == Stage::Dialling && stage != Stage::Dialling;
        match stepped {
            Err(_) => self.end(place),
            Ok(more) => {
                if more {
                    self.busy.push(place);
                }
                if dialled {
                    let far = self.places[place].tunnel.as_ref().and_then(|t| t.far.as_ref());
                    if let Some(Err(error)) = far.map(|far| self.watch(far, place, true)) {
                        die(error);
                    }
                }
            }
        }
    }

    /// Closes a place's tunnel and has another one opened there.
    fn end(&mut self, place: usize) {
        let Some(tunnel) = self.places[place].tunnel.take() else { return };
        if tunnel.is_authorized() {
            self.authorized -= 1;
            self.vacant.push(place);
        } else {
            self.proving -= 1;
            self.refused.push(place);
        }
        tunnel.close();
    }
}
