//! The command line's side of the control socket: one request, one answer, without a runtime.
//! The daemon answers its API there (protocol page, section 3).

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::remedy;
use crate::config::folders::SOCKET;
use crate::limits;
use crate::text::{foreign, reason};

/// Why the daemon could not be asked. `Display` is a sentence for the person at the terminal.
#[derive(Debug)]
pub enum ControlError {
    /// There is no socket, or nobody listens on it.
    NotRunning(PathBuf),
    /// The socket is there and not for this user.
    NotPermitted(PathBuf),
    /// No whole answer came in time.
    NoAnswer(Duration),
    /// What came is not an answer; what is wrong with it.
    BadAnswer(&'static str),
    /// Anything else that the system reports of the socket.
    Io(PathBuf, io::Error),
}

/// What was answered. Whoever has broken into a daemon or a process of tunnels must get nothing done by the one who asks
/// it, often root: there is no other way to the text than these.
#[derive(Debug, PartialEq, Eq)]
pub struct Body(String);

impl Body {
    /// To be read: no string in it has a line feed or another control character.
    pub fn text(&self) -> String {
        foreign::in_lines(&self.0)
    }

    /// To be printed, or read and printed as JSON: it says what it said, with escapes for control characters.
    pub fn json(&self) -> String {
        foreign::shown(&self.0)
    }
}

/// Sends one request to the daemon that runs in the run directory `run`; returns the status code
/// and the body. `body` is a form; an empty one is none. Waits at most `wait`.
pub fn call(
    wait: Duration,
    run: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Body), ControlError> {
    call_within(wait, &run.join(SOCKET), method, path, body)
}

/// The same for the process that listens on `socket`.
pub fn call_within(
    wait: Duration,
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Body), ControlError> {
    let mut asking = Asking::begin(wait, socket, method, path, body)?;
    loop {
        asking.limit()?;
        if let Some(answer) = asking.go_on()? {
            return Ok(answer);
        }
    }
}

/// A request whose answer is still to come.
pub struct Asking {
    stream: UnixStream,
    socket: PathBuf,
    wait: Duration,
    until: Instant,
    answer: Vec<u8>,
}

impl Asking {
    /// Sends the request to the process that listens on `socket`.
    pub fn begin(
        wait: Duration,
        socket: &Path,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Self, ControlError> {
        let until = Instant::now() + wait;
        let stream = connect(socket).map_err(|error| failed(socket, wait, error))?;
        let mut asking = Asking { stream, socket: socket.into(), wait, until, answer: Vec::new() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = asking.stream.set_write_timeout(Some(wait));
        let sent = sent.and_then(|()| asking.stream.write_all(request.as_bytes()));
        sent.map_err(|error| asking.failed(error))?;
        Ok(asking)
    }

    /// What is ready when [`go_on`](Self::go_on) does not wait.
    pub fn file(&self) -> &UnixStream {
        &self.stream
    }

    /// When it is too late for the answer.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// That it is too late.
    pub fn late(&self) -> ControlError {
        ControlError::NoAnswer(self.wait)
    }

    /// Has [`go_on`](Self::go_on) wait no longer than there is time for the answer.
    fn limit(&self) -> Result<(), ControlError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.late());
        }
        self.stream.set_read_timeout(Some(left)).map_err(|error| self.failed(error))
    }

    /// Reads some of the answer: the status code and the body, once all is there.
    pub fn go_on(&mut self) -> Result<Option<(u16, Body)>, ControlError> {
        let mut piece = vec![0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => return Err(ControlError::BadAnswer("it is cut off")),
            Ok(count) => self.answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(self.failed(error)),
        }
        parse(&self.answer)
    }

    fn failed(&self, error: io::Error) -> ControlError {
        failed(&self.socket, self.wait, error)
    }
}

fn failed(socket: &Path, wait: Duration, error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning(socket.into())
        }
        io::ErrorKind::PermissionDenied => ControlError::NotPermitted(socket.into()),
        // A timeout of a blocking socket is reported as the first of these.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::NoAnswer(wait),
        _ => ControlError::Io(socket.into(), error),
    }
}

/// Connects without waiting: the queue of a daemon that hangs is full, and a blocking call would
/// wait for it without a limit.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let file = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&file, &address) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    }
    let stream = UnixStream::from(file);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The status and the body once the whole answer is there.
fn parse(bytes: &[u8]) -> Result<Option<(u16, Body)>, ControlError> {
    let bad = ControlError::BadAnswer;
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() <= limits::HTTP_HEAD => return Ok(None),
        _ => return Err(bad("it is not HTTP")),
    };
    let status = response.code.ok_or(bad("it has no status"))?;
    let length: usize = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok())
        .filter(|length| *length <= limits::CONTROL_ANSWER)
        .ok_or(bad("its length is missing or too large"))?;
    match bytes[head..].get(..length) {
        None => Ok(None),
        Some(body) => match std::str::from_utf8(body) {
            Ok(text) => Ok(Some((status, Body(text.to_owned())))),
            Err(_) => Err(bad("it is not UTF-8")),
        },
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::NotRunning(socket) => write!(
                f,
                "nobody listens on {}: {}; if it runs elsewhere, name its run folder with --run",
                socket.display(),
                remedy::not_running(&remedy::DAEMON, socket.parent().unwrap_or(socket)).trim_end()
            ),
            ControlError::NotPermitted(socket) => write!(
                f,
                "{} may not use {}{}; run the command with sudo, or as the user that the daemon \
                 runs as",
                reason::user(),
                socket.display(),
                reason::owner_and_mode(socket).map_or(String::new(), |is| format!(", which {is}"))
            ),
            ControlError::NoAnswer(wait) => write!(
                f,
                "iofog-connector runs, but did not answer within {} s; restart it if this lasts",
                wait.as_secs()
            ),
            ControlError::BadAnswer(what) => write!(
                f,
                "the answer on the control socket is not one of iofog-connector: {what}; is \
                 another program using the socket?"
            ),
            ControlError::Io(socket, error) => write!(
                f,
                "{} cannot be used: {}; name the daemon's run folder with --run DIR",
                socket.display(),
                reason::reading(socket, error)
            ),
        }
    }
}

impl std::error::Error for ControlError {}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::testing::folder::Folder;

    /// A daemon that reads one request and answers with these pieces.
    fn answering(folder: &Folder, pieces: &'static [&'static str]) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).expect("a request");
            for piece in pieces {
                stream.write_all(piece.as_bytes()).expect("written");
                stream.flush().expect("flushed");
            }
            String::from_utf8_lossy(&request[..count]).into_owned()
        })
    }

    #[test]
    fn status_waits_for_five_seconds_at_most() {
        assert!(limits::STATUS_WAIT <= Duration::from_secs(5));
    }

    #[test]
    fn one_request_one_answer() {
        let folder = Folder::new();
        let daemon = answering(
            &folder,
            &["HTTP/1.1 40", "4 Not Found\r\ncontent-length: 7\r\n\r", "\n{\"a\":", "1}more"],
        );
        let answer = call(limits::CONTROL_WAIT, &folder, "POST", "/x", "a=b").expect("an answer");
        assert_eq!(answer, (404, Body("{\"a\":1}".into())));
        let request = daemon.join().expect("the daemon");
        assert!(request.starts_with("POST /x HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("Content-Length: 3\r\n\r\na=b"), "{request}");
    }

    #[test]
    fn bad_answers() {
        for pieces in [
            &["HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nabc"][..],
            &["HTTP/1.1 200 OK\r\n\r\nabc"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"],
            &["SSH-2.0-x\r\n"],
            &[],
        ] {
            let folder = Folder::new();
            let daemon = answering(&folder, pieces);
            let error = call(limits::CONTROL_WAIT, &folder, "GET", "/", "").expect_err("no answer");
            assert!(matches!(error, ControlError::BadAnswer(_)), "{pieces:?}: {error}");
            daemon.join().expect("the daemon");
        }
    }

    #[test]
    fn absent_daemons() {
        let folder = Folder::new();
        let ask = || call(limits::CONTROL_WAIT, &folder, "GET", "/", "").expect_err("no daemon");
        assert!(matches!(ask(), ControlError::NotRunning(_)));
        // The socket file of a daemon that was killed.
        drop(UnixListener::bind(folder.join(SOCKET)).expect("a socket"));
        assert!(matches!(ask(), ControlError::NotRunning(_)));
        let long = folder.join("x".repeat(200));
        let error = call(limits::CONTROL_WAIT, &long, "GET", "/", "").expect_err("too long");
        assert!(matches!(error, ControlError::Io(..)), "{error}");
    }

    #[test]
    fn who_may_not_use_the_socket_is_told_owner_mode_and_remedy() {
        let folder = Folder::new();
        let socket = folder.file(SOCKET, "", 0o640);
        let said = ControlError::NotPermitted(socket).to_string();
        for part in
            ["may not use /", ", which belongs to ", ", mode 0640; run the command with sudo"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn hanging_daemons() {
        let folder = Folder::new();
        let socket = folder.join(SOCKET);
        let daemon = UnixListener::bind(&socket).expect("a socket");
        rustix::net::listen(&daemon, 4).expect("a short queue");
        let wait = Duration::from_millis(50);
        let error = call_within(wait, &socket, "GET", "/", "").expect_err("silence");
        assert!(matches!(error, ControlError::NoAnswer(_)), "{error}");
        let held: Vec<_> = std::iter::from_fn(|| connect(&socket).ok()).take(100).collect();
        assert!(held.len() < 100);
        let error = call_within(wait, &socket, "GET", "/", "").expect_err("a full queue");
        assert!(matches!(error, ControlError::NoAnswer(_)), "{error}");
    }
}
