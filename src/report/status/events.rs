//! What has happened last (protocol page, section 3): a ring, so that an operator who looks in the
//! morning sees the night.

use std::borrow::Cow;
use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::clock::timestamp;
use crate::limits;
use crate::mappings::mapping::Id;
use crate::text::event::Event;

/// The last [`limits::EVENTS`] events, the newest at the end. One for the whole daemon.
#[derive(Debug, Default)]
pub struct Events(RefCell<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    event: Event,
    /// What tells it from others of its word on its mapping: a kind of refusal, a limit, a port; its message where this
    /// is empty.
    kind: &'static str,
    shown: Happened,
}

/// An event as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When, the last time of several; in milliseconds since the epoch.
    pub at: u64,
    /// [`Event::word`].
    pub event: Cow<'static, str>,
    /// On which mapping, if on one.
    pub mapping: Option<Id>,
    /// The name that it had, if any.
    pub name: Option<Box<str>>,
    /// How often: equal ones of a mapping are one when they follow each other there, or come within
    /// [`limits::EVENT_AGAIN`].
    pub count: u64,
    /// A sentence about the last of them, with no secret in it.
    pub message: Box<str>,
}

impl Events {
    /// This has happened just now, on the mapping of this id and name if on one.
    pub fn tell(
        &self,
        event: Event,
        mapping: Option<(&Id, &str)>,
        kind: &'static str,
        message: &str,
    ) {
        self.tell_at(timestamp(), event, mapping, kind, message);
    }

    fn tell_at(
        &self,
        at: u64,
        event: Event,
        mapping: Option<(&Id, &str)>,
        kind: &'static str,
        message: &str,
    ) {
        let ring = &mut *self.0.borrow_mut();
        let id = mapping.map(|(id, _)| id);
        let message = bounded(message);
        let (mut is_last, mut known) = (true, None);
        for (place, one) in ring.iter().enumerate().rev() {
            if one.shown.mapping.as_ref() != id {
                continue;
            }
            let is_late = at.saturating_sub(one.shown.at) >= limits::EVENT_AGAIN;
            let is_equal = (one.event, one.kind) == (event, kind)
                && (!kind.is_empty() || one.shown.message == message);
            if is_equal && (is_last || !is_late) {
                known = Some(place);
                break;
            }
            is_last = false;
        }
        let count = known.map_or(1, |place| ring.remove(place).shown.count + 1);
        if ring.len() >= limits::EVENTS {
            // However often strangers knock, what else has happened stays.
            let of_strangers = |one: &Entry| one.event.is_of_strangers();
            let all = ring.iter().filter(|one| of_strangers(one)).count();
            let too_many = all + usize::from(event.is_of_strangers()) > limits::EVENTS / 2;
            let oldest = ring.iter().position(|one| !too_many || of_strangers(one));
            ring.remove(oldest.unwrap_or_default());
        }
        let name = mapping.filter(|(id, name)| ***id != **name).map(|(_, name)| name.into());
        ring.push(Entry {
            event,
            kind,
            shown: Happened {
                at,
                event: event.word().into(),
                mapping: id.cloned(),
                name,
                count,
                message,
            },
        });
    }

    /// All of them, the newest at the end.
    pub fn list(&self) -> Vec<Happened> {
        self.0.borrow().iter().map(|one| one.shown.clone()).collect()
    }
}

fn bounded(message: &str) -> Box<str> {
    let mut end = message.len().min(limits::EVENT_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < message.len() { "…" } else { "" };
    [&message[..end], more].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(events: &Events) -> Vec<String> {
        let shown = events.list().into_iter();
        shown.map(|one| format!("{} {} {}", one.at, one.event, one.count)).collect()
    }

    #[test]
    fn equal_events_that_follow_each_other_on_a_mapping_are_one() {
        let events = Events::default();
        let (one, two): (Id, Id) = ("1".into(), "2".into());
        let (one, two) = (Some((&one, "web")), Some((&two, "2")));
        let day = 86_400_000;
        events.tell_at(1, Event::AgentCame, one, "port1", "a");
        events.tell_at(2, Event::AgentCame, two, "port1", "b");
        events.tell_at(3 * day, Event::AgentCame, one, "port1", "c");
        assert_eq!(words(&events), ["2 agent-came 1", "259200000 agent-came 2"]);
        let list = events.list();
        assert_eq!((list[0].mapping.as_deref(), list[0].name.as_deref()), (Some("2"), None));
        assert_eq!((list[1].mapping.as_deref(), list[1].name.as_deref()), (Some("1"), Some("web")));
        assert_eq!(&*list[1].message, "c");
        // Another side's, and what comes again after something else, is another one.
        events.tell_at(3 * day, Event::AgentCame, one, "port2", "d");
        events.tell_at(4 * day, Event::AgentWent, one, "port1", "e");
        events.tell_at(5 * day, Event::AgentCame, one, "port1", "f");
        assert_eq!(events.list().len(), 5);
        // Where nothing else tells them apart, what is said does.
        for message in ["changed: idle", "changed: idle", "changed: allow"] {
            events.tell_at(6 * day, Event::MappingChanged, one, "", message);
        }
        assert_eq!(
            words(&events)[5..],
            ["518400000 mapping-changed 2", "518400000 mapping-changed 1"]
        );
    }

    #[test]
    fn what_comes_and_goes_all_the_time_takes_two_places() {
        let events = Events::default();
        for second in 0..1000 {
            events.tell_at(second * 1000, Event::AgentCame, None, "port1", "a");
            events.tell_at(second * 1000 + 500, Event::AgentWent, None, "port1", "a");
        }
        assert_eq!(words(&events), ["999000 agent-came 1000", "999500 agent-went 1000"]);
    }

    #[test]
    fn only_the_last_are_kept_and_strangers_have_half_of_the_places() {
        let events = Events::default();
        let id = |number: u64| -> Id { number.to_string().into() };
        events.tell_at(0, Event::Started, None, "", "a");
        for number in 0..1000 {
            events.tell_at(number, Event::UserRefused, Some((&id(number), "x")), "wrong", "b");
        }
        for number in 0..120 {
            events.tell_at(number, Event::AgentCame, Some((&id(number), "x")), "port1", "c");
        }
        for number in 1000..2000 {
            events.tell_at(number, Event::UserRefused, Some((&id(number), "x")), "wrong", "d");
        }
        let list = events.list();
        let of = |word: &str| list.iter().filter(|one| one.event == word).count();
        assert_eq!(list.len(), limits::EVENTS);
        assert_eq!((of("user-refused"), of("agent-came")), (100, 100));
        assert_eq!(list.last().map(|one| one.at), Some(1999));
        for number in 0..1000 {
            events.tell_at(number, Event::AgentCame, Some((&id(number + 1000), "x")), "port1", "e");
        }
        assert!(events.list().iter().all(|one| one.event == "agent-came"));
        assert_eq!(events.list().len(), limits::EVENTS);
    }

    #[test]
    fn the_longest_sentences_are_kept_whole() {
        // Of a certificate that has ended, with a path of 200 bytes.
        let message = format!(
            "{}: expired at 2026-11-28T12:35:50Z (the clock says 2026-11-28T12:35:53Z); agents and users will refuse it; \
             put a new one in place and reload, or move it and server-key.pem away and restart to have a self-signed pair \
             made",
            "p".repeat(200)
        );
        let events = Events::default();
        events.tell(Event::CertificateEnds, None, "", &message);
        assert_eq!(*events.list()[0].message, *message);
    }

    #[test]
    fn an_event_is_at_most_as_large_as_its_bound_says() {
        let events = Events::default();
        let id: Id = "e2454159-ed8c-4d00-a885-fdd87de811de".into();
        events.tell(Event::AgentCame, Some((&id, &"n".repeat(63))), "port1", &"é".repeat(10_000));
        let shown = events.list().remove(0);
        let [id, name] = [shown.mapping, shown.name].map(|text| text.map_or(0, |text| text.len()));
        assert!(size_of::<Entry>() + id + name + shown.message.len() <= 760);
    }

    #[test]
    fn words_are_lower_case_with_hyphens_and_each_is_one_event() {
        let words: Vec<_> = Event::ALL.iter().map(|event| event.word()).collect();
        let is_fit =
            |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(words.iter().all(|word| is_fit(word)), "{words:?}");
        let different: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(different.len(), words.len());
    }
}
