//! A stand-in agent: keeps tunnels open and carries each session to a backend. One thread,
//! edge-triggered epoll, one read buffer for all.

use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::arguments::{Arguments, die};
use crate::record::Record;
use crate::sys::{self, EDGE, ENDED, Epoll, Event, IN, OUT};
use crate::tls;
use crate::tunnel::{BUFFER, Beats, Terms, Tunnel, Version};

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
    /// Tunnels authorized so far, those of them whose handshake was short, and those that ended.
    opened: usize,
    resumed: usize,
    ended: usize,
    /// Heartbeats of tunnels that have ended.
    beats: Beats,
}

/// Where one tunnel after the other lives. Events carry the generation of their connection.
#[derive(Default)]
struct Place {
    tunnel: Option<Tunnel>,
    /// Of the tunnel's own connection, then of that to the backend.
    generations: [u32; 2],
}

/// No heartbeats are sent in the last nanoseconds before the end that `--secs` sets, so that all can
/// be answered.
const LAST: u64 = 5_000_000_000;

/// Keeps `--connections` tunnels open until killed, or for `--secs`; prints `READY` when all are
/// authorized.
pub(crate) fn run(arguments: &Arguments) {
    let version = match arguments.get("version").unwrap_or(1) {
        1 => Version::One,
        2 => Version::Two,
        3 => Version::Three,
        _ => die("--version: 1, 2 or 3"),
    };
    let tls = match version {
        Version::Three => tls::config_of_frames(arguments),
        _ => tls::config(arguments),
    };
    let terms =
        Terms { version, passcode: arguments.need("passcode"), backend: arguments.port("backend") };
    let connections: usize = arguments.get("connections").unwrap_or(60);
    let mut agent = Agent {
        terms,
        target: arguments.port("target"),
        tls,
        epoll: Epoll::new().unwrap_or_else(|error| die(error)),
        places: (0..connections).map(|_| Place::default()).collect(),
        buffer: vec![0; BUFFER],
        vacant: (0..connections).rev().collect(),
        refused: Vec::new(),
        busy: Vec::new(),
        proving: 0,
        authorized: 0,
        opened: 0,
        resumed: 0,
        ended: 0,
        beats: Beats::default(),
    };
    if let Err(error) = agent.serve(arguments) {
        die(format_args!("agent: {error}"));
    }
    agent.report();
}

impl Agent {
    fn serve(&mut self, arguments: &Arguments) -> io::Result<()> {
        let beat_ms: u64 = arguments.get("beat-ms").unwrap_or(20_000);
        let (again, lasts) = (arguments.flag("again"), arguments.get::<u64>("secs"));
        let step = (beat_ms * 1_000_000 / SLOTS).max(1_000_000);
        let (mut next_beat, mut slot) = (sys::now() + step, 0);
        let (mut next_try, mut ready, mut end) = (0, false, u64::MAX);
        let mut events = Vec::new();
        loop {
            while self.proving < PROVING {
                let Some(place) = self.vacant.pop() else { break };
                self.open(place);
            }
            let now = sys::now();
            let all = self.authorized == self.places.len();
            if all && !ready {
                println!("READY {} tunnels, {} resumed so far", self.authorized, self.resumed);
                io::stdout().flush()?;
                end = end.min(lasts.map_or(u64::MAX, |seconds| now + seconds * 1_000_000_000));
            }
            ready = all || (ready && !again);
            if now >= end {
                return Ok(());
            }
            let idle = self.busy.is_empty();
            let until_beat = next_beat.saturating_sub(now) / 1_000_000;
            let longest = if self.refused.is_empty() { 200 } else { 10 };
            self.epoll.wait(&mut events, if idle { until_beat.min(longest) as i32 + 1 } else { 0 });
            self.take_events(&events);
            let now = sys::now();
            if now >= next_beat {
                next_beat += step;
                slot = (slot + 1) % SLOTS;
                if now < end.saturating_sub(LAST) {
                    self.beat(slot);
                }
            }
            if now >= next_try {
                next_try = now + AGAIN;
                self.vacant.append(&mut self.refused);
            }
        }
    }

    /// What became of tunnels and heartbeats.
    fn report(&self) {
        let mut beats = self.beats;
        for tunnel in self.places.iter().filter_map(|place| place.tunnel.as_ref()) {
            beats += tunnel.beats;
        }
        let mut record = Record::new("agent");
        record.number("authorized", self.authorized as f64);
        record.number("opened", self.opened as f64);
        record.number("resumed", self.resumed as f64);
        record.number("ended", self.ended as f64);
        record.number("beats", beats.sent as f64);
        record.number("answered", beats.answered as f64);
        record.print();
    }

    fn take_events(&mut self, events: &[Event]) {
        for &(flags, number) in events {
            let (place, far, generation) =
                ((number >> 33) as usize, number >> 32 & 1 == 1, number as u32);
            let Place { tunnel: Some(tunnel), generations } = &mut self.places[place] else {
                continue;
            };
            if generations[usize::from(far)] != generation {
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

    /// Has this hear of the events of a place's connection.
    fn watch(&mut self, place: usize, far: bool) {
        let Place { tunnel: Some(tunnel), generations } = &mut self.places[place] else { return };
        let side = if far { tunnel.far.as_mut() } else { Some(&mut tunnel.near) };
        let Some(side) = side.filter(|side| !side.watched) else { return };
        let generation = &mut generations[usize::from(far)];
        *generation = generation.wrapping_add(1);
        side.watched = true;
        let number = (place as u64) << 33 | u64::from(far) << 32 | u64::from(*generation);
        if let Err(error) = self.epoll.add(side.fd, WATCHED, number) {
            die(error);
        }
    }

    fn open(&mut self, place: usize) {
        let Ok(fd) = sys::connect(&self.target) else {
            self.refused.push(place);
            return;
        };
        let tls = self.tls.as_ref().map(|config| Box::new(tls::session(config)));
        self.places[place].tunnel = Some(Tunnel::new(fd, tls));
        self.watch(place, false);
        self.proving += 1;
    }

    fn drive(&mut self, place: usize) {
        let Some(tunnel) = &mut self.places[place].tunnel else { return };
        let was_authorized = tunnel.is_authorized();
        let stepped = tunnel.step(&self.terms, &mut self.buffer);
        if !was_authorized && tunnel.is_authorized() {
            self.proving -= 1;
            self.authorized += 1;
            self.opened += 1;
            self.resumed += usize::from(tunnel.is_resumed());
        }
        match stepped {
            Err(_) => self.end(place),
            Ok(more) => {
                if more {
                    self.busy.push(place);
                }
                self.watch(place, true);
            }
        }
    }

    /// Closes a place's tunnel and has another one opened there.
    fn end(&mut self, place: usize) {
        let Some(tunnel) = self.places[place].tunnel.take() else { return };
        self.beats += tunnel.beats;
        if tunnel.is_authorized() {
            self.authorized -= 1;
            self.ended += 1;
            self.vacant.push(place);
        } else {
            self.proving -= 1;
            self.refused.push(place);
        }
        tunnel.close();
    }
}
