//! A web service of one page, for the demonstration: `hello` listens on a free loopback port,
//! prints its address, and answers every request with who asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        // A browser that goes away is no failure of the service.
        thread::spawn(move || stream.and_then(answer));
    }
    Ok(())
}

/// Answers one request, and ends the connection.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // A request's head fits; whoever sends more gets no answer.
    let head = BufReader::new(stream.try_clone()?.take(16 * 1024)).lines();
    let lines: Vec<String> =
        head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let request = lines.first().map_or("nothing", String::as_str);
    let page = format!(
        "<!doctype html>\n<title>Hello through the pipe</title>\n<h1>Hello through the pipe</h1>\n\
         <p>This page came from a service on loopback that no port leads to: only the tunnel.\n\
         <p>You asked: <code>{}</code>\n",
        request.replace('&', "&amp;").replace('<', "&lt;")
    );
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}
