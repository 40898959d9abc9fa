//! The whole log, to files and sockets of its own.

use std::fmt;
use std::fs;
use std::os::unix::net::UnixDatagram;

use super::message::MESSAGE;
use super::*;
use crate::testing::folder::Folder;

impl Folder {
    fn log(&self) -> String {
        fs::read_to_string(self.join(FILE)).unwrap_or_default()
    }

    /// The messages in the log, without time and level.
    fn messages(&self) -> Vec<String> {
        self.log().lines().map(|line| line[27..].to_owned()).collect()
    }

    fn logging(&self) -> Logging {
        Logging::with(vec![CountingSink::new(File::new(&self.join(FILE)))], false, false)
    }
}

fn say(logging: &Logging, message: &str, now: Instant) {
    let line = Line::plain(Level::Info, escape(format_args!("{message}")));
    let lost = logging.lock().log(None, line, now);
    logging.add_lost(lost);
}

#[test]
fn one_line_in_is_one_line_out() {
    for (message, line) in [
        ("plain % text \\ é 漢", "plain % text \\ é 漢"),
        ("two\nlines\r\n\tthree", "two\\nlines\\r\\n\\tthree"),
        ("\x1b[31mred\x07\0\x7f", "\\x1b[31mred\\x07\\x00\\x7f"),
        ("\u{9b}c \u{2028} \u{202e}", "\\u{9b}c \\u{2028} \\u{202e}"),
    ] {
        assert_eq!(escape(format_args!("{message}")), line);
    }
    let broken = String::from_utf8_lossy(b"half \xe6\xbc");
    assert_eq!(escape(format_args!("{broken}")), "half \u{fffd}");
}

#[test]
fn a_message_is_cut_at_its_bound() {
    let fits = "x".repeat(MESSAGE);
    assert_eq!(escape(format_args!("{fits}")), fits);
    let long = escape(format_args!("{fits}\n"));
    assert_eq!(long, format!("{fits}…"));
}

#[test]
fn repeated_lines_are_summarised() {
    let folder = Folder::new();
    let logging = folder.logging();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for _ in 0..4 {
        say(&logging, "again", at(0));
    }
    say(&logging, "other", at(1));
    say(&logging, "other", at(2));
    say(&logging, "third", at(3));
    assert_eq!(
        folder.messages(),
        ["again", "last message repeated 3 times", "other", "other", "third"]
    );
    say(&logging, "third", at(4));
    say(&logging, "third", at(5));
    logging.tick_at(at(13));
    assert_eq!(folder.messages().len(), 5, "not due yet");
    logging.tick_at(at(14));
    logging.tick_at(at(15));
    assert_eq!(folder.messages()[5..], ["last message repeated 2 times"]);
    say(&logging, "third", at(40));
    assert_eq!(folder.messages()[6..], ["third"], "after a while it is news again");
}

#[test]
fn floods_leave_room_for_the_daemons_own_lines() {
    let folder = Folder::new();
    let logging = folder.logging();
    let log = |target: &str, message: fmt::Arguments<'_>| {
        let mut record = Record::builder();
        record.level(Level::Info).file_static(Some("a.rs")).line(Some(1));
        logging.log(&record.target(target).args(message).build());
    };
    // One level for all tests: it is the process's.
    log::set_max_level(LevelFilter::Info);
    for number in 0..2000 {
        let mapping = ["m1", "m2"][number % 2];
        log(mapping, format_args!("{mapping}: agent 10.0.0.{number} refused"));
        if number % 100 == 0 {
            log(ALWAYS, format_args!("mapping {number} added"));
        }
    }
    let messages = folder.messages();
    let count = |what: &str| messages.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count("m1: "), count("m2: "), count(" added")), (10, 10, 20), "{messages:?}");
    logging.flush();
    let messages = folder.messages();
    let end = "m1: agent 10.0.0.1998 refused (and 989 more like it, left out)";
    assert!(messages.iter().any(|line| line == end), "{messages:?}");
}

#[test]
fn two_complaints_in_turn_fill_the_log_no_faster_than_one() {
    let folder = Folder::new();
    let logging = folder.logging();
    log::set_max_level(LevelFilter::Info);
    for number in 0..2000 {
        let mapping = ["m1", "m2"][number / 3 % 2];
        let mut record = Record::builder();
        record.level(Level::Warn).file_static(Some("a.rs")).line(Some(3)).target(mapping);
        logging.log(&record.args(format_args!("{mapping}: user refused")).build());
    }
    // The counts of repeats are lines as well; the last one of each is owed.
    let messages = folder.messages();
    assert!(messages.len() <= 2 * (10 + 1), "{messages:?}");
}

#[test]
fn a_line_that_is_left_out_reaches_no_file_and_is_put_into_words_no_further_than_its_bound() {
    /// A text without end; it counts how much of it was asked for.
    struct Endless<'a>(&'a std::cell::Cell<usize>);
    impl fmt::Display for Endless<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                assert!(self.0.get() < 1 << 22, "it goes on for ever");
                self.0.set(self.0.get() + 10);
                f.write_str("0123456789")?;
            }
        }
    }
    log::set_max_level(LevelFilter::Info);
    let folder = Folder::new();
    let logging = folder.logging();
    let log = |message: fmt::Arguments<'_>| {
        let mut record = Record::builder();
        record.level(Level::Warn).file_static(Some("a.rs")).line(Some(2)).target("m1");
        logging.log(&record.args(message).build());
    };
    let start = Instant::now();
    const LINES: usize = 2000;
    for number in 0..LINES {
        log(format_args!("m1: agent 10.0.0.{number} refused"));
    }
    eprintln!("a line took {:?}, nearly all of them left out", start.elapsed() / LINES as u32);
    let before = folder.log();
    let asked = std::cell::Cell::new(0);
    for number in 0..100 {
        log(format_args!("m1: {number} {}", Endless(&asked)));
    }
    assert!(asked.get() <= 100 * (MESSAGE + 10), "{} bytes for 100 lines", asked.get());
    assert!(folder.log() == before, "they are left out");
}

#[test]
fn lines_of_the_file_have_a_time_and_a_level() {
    let folder = Folder::new();
    let logging = folder.logging();
    say(&logging, "hello\nworld", Instant::now());
    let log = folder.log();
    assert_eq!(log.len(), "2026-01-01T00:00:00Z INFO  hello\\nworld\n".len());
    assert!(log.ends_with("Z INFO  hello\\nworld\n"), "{log}");
}

#[test]
fn no_folder_loses_a_count_and_says_so_later() {
    let folder = Folder::new();
    let place = folder.join("place");
    fs::write(&place, "a file where the folder should be").unwrap();
    let logging =
        Logging::with(vec![CountingSink::new(File::new(&place.join(FILE)))], false, false);
    say(&logging, "one", Instant::now());
    say(&logging, "two", Instant::now());
    assert_eq!(logging.lost(), 2);
    fs::remove_file(&place).unwrap();
    say(&logging, "three", Instant::now());
    let log = fs::read_to_string(place.join(FILE)).unwrap();
    let messages: Vec<_> = log.lines().map(|line| &line[27..]).collect();
    assert_eq!(messages, ["2 messages lost", "three"]);
    assert_eq!(logging.lost(), 2);
}

#[test]
fn syslog_comes_and_goes_without_blocking() {
    let folder = Folder::new();
    let path = folder.join("log");
    let logging = Logging::with(vec![CountingSink::new(Syslog::new(&path))], false, false);
    let mut number = 0;
    let mut say = |count: usize| {
        for _ in 0..count {
            number += 1;
            super::tests::say(&logging, &format!("message {number}"), Instant::now());
        }
    };
    let receive = |socket: &UnixDatagram| {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(length) = socket.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        all
    };

    say(3);
    assert_eq!(logging.lost(), 3, "no syslogd");
    let first = UnixDatagram::bind(&path).unwrap();
    say(1);
    let head = format!("<30>iofog-connector[{}]: ", std::process::id());
    let warning = format!("<28>iofog-connector[{}]: ", std::process::id());
    assert_eq!(receive(&first), [format!("{warning}3 messages lost"), format!("{head}message 4")]);

    say(2000);
    let lost = logging.lost();
    assert!(lost > 1000, "a stopped syslogd fills its queue: {lost}");
    receive(&first);

    drop(first);
    say(1);
    fs::remove_file(&path).unwrap();
    let second = UnixDatagram::bind(&path).unwrap();
    say(1);
    let received = receive(&second);
    assert_eq!(received.len(), 2, "{received:?}");
    assert!(received[0].ends_with(" messages lost"), "{received:?}");
    assert!(received[1].ends_with("message 2006"), "{received:?}");
}

#[test]
fn syslog_that_takes_streams_gets_whole_messages_and_blocks_nobody() {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    let folder = Folder::new();
    let path = folder.join("log");
    let syslogd = UnixListener::bind(&path).unwrap();
    // Who should have connected has by the time it is looked for.
    syslogd.set_nonblocking(true).unwrap();
    let logging = Logging::with(vec![CountingSink::new(Syslog::new(&path))], false, false);
    let head = format!("<30>iofog-connector[{}]: ", std::process::id());
    say(&logging, "one", Instant::now());
    say(&logging, "two", Instant::now());
    let (mut first, _) = syslogd.accept().unwrap();
    let mut text = vec![0; 2 * (head.len() + 4)];
    first.read_exact(&mut text).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), format!("{head}one\0{head}two\0"));

    for number in 0..5000 {
        say(&logging, &format!("message {number} {}", "x".repeat(100)), Instant::now());
    }
    assert!(logging.lost() > 1000, "a stopped syslogd's queue fills up: {}", logging.lost());
    // It is restarted: what was cut there is whole on the new connection.
    drop(first);
    say(&logging, "after", Instant::now());
    let (mut second, _) = syslogd.accept().unwrap();
    say(&logging, "last", Instant::now());
    drop(logging);
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    let messages: Vec<_> = text.split_terminator('\0').collect();
    assert!(messages.iter().all(|message| message.starts_with('<')), "{messages:?}");
    assert!(messages[0].ends_with(" messages lost"), "{messages:?}");
    assert_eq!(messages[1..], [format!("{head}after"), format!("{head}last")]);
}

#[test]
fn last_words_do_not_wait_for_ever() {
    let folder = Folder::new();
    let logging = folder.logging();
    {
        let _held = logging.lock();
        logging.last_words("panic");
    }
    assert_eq!(folder.log(), "");
    logging.last_words("panic");
    assert_eq!(folder.messages(), ["panic"]);
}
