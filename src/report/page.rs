//! The page for people: all of it in one answer, with the state as a plain table, which needs no script. Where
//! scripts run, its own asks for the JSON every two seconds and takes the table over.

use super::answer::Report;
use super::table::{self, bytes};
use crate::logging::Utc;
use crate::report::status::{Counts, MappingStatus, Tunnels};
use crate::text::counted;
use crate::text::line::is_unfit;

/// A file's text as the program has it: what is for readers of the source alone is left out.
macro_rules! packed {
    ($file:literal) => {{
        const TEXT: &str = include_str!($file);
        const PACKED: [u8; packed::<0>(TEXT).1] = packed(TEXT).0;
        match std::str::from_utf8(&PACKED) {
            Ok(text) => text,
            // Whole lines are UTF-8, too.
            Err(_) => "",
        }
    }};
}

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = packed!("page/page.css");
const SCRIPT: &str = packed!("page/page.js");

/// The content type of [`page`].
pub const PAGE_TYPE: &str = "text/html; charset=utf-8";

/// The fields of its answer's head by which a browser runs the page's own script and no other, and asks nobody else
/// for anything; the hashes are of `page/page.js` and `page/page.css`.
pub const PAGE_FIELDS: &str = "Content-Security-Policy: default-src 'none'; \
    script-src 'sha256-QztaGFyEl31owsANOjeBPZEHLH2o6D5Mx1AtyzCTQOs='; \
    style-src 'sha256-LRXXA3dMQt/z7hO4Xfk8mhGfedKRt8qyP7jy9Sbqytk='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'\r\n\
    Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n";

/// The text without indentation, and without lines that are empty or a comment: its first bytes, and its length.
const fn packed<const SIZE: usize>(text: &str) -> ([u8; SIZE], usize) {
    let (text, mut packed, mut length, mut at) = (text.as_bytes(), [0; SIZE], 0, 0);
    while at < text.len() {
        let begin = length;
        while text[at] == b' ' {
            at += 1;
        }
        let is_comment = text[at] == b'/' && text[at + 1] == b'/';
        while text[at] != b'\n' {
            if length < SIZE {
                packed[length] = text[at];
            }
            (at, length) = (at + 1, length + 1);
        }
        at += 1;
        if is_comment {
            length = begin;
        } else if length > begin {
            if length < SIZE {
                packed[length] = b'\n';
            }
            length += 1;
        }
    }
    (packed, length)
}

/// The page of `report`, in HTML.
pub fn page(report: &Report) -> String {
    let (state, totals) = (&report.state, &report.totals);
    let mut page = Page { text: String::new(), rest: PAGE };
    page.up_to("<style>").push_str(STYLE);
    let said = format!("{} at {}", report.status, Utc(report.timestamp / 1000));
    html(page.up_to("\"status\">"), &said);
    let notes = page.up_to("\"notes\">");
    for line in table::before(report).iter().chain(&table::after(report)) {
        notes.push_str("<li>");
        html(notes, line);
        notes.push_str("</li>\n");
    }
    let total = counted(state.mappings.len() as u64, "mapping");
    let about = ["", "", &tunnels(&totals.tunnels)];
    row(page.up_to("\"total\">"), &total, about, &totals.counts, true, ["", "", ""]);
    let rows = page.up_to("\"rows\">");
    state.mappings.iter().for_each(|one| mapping(rows, one, state.draining.is_some()));
    page.up_to("<script>").push_str(SCRIPT);
    page.text + page.rest
}

/// The page as far as it is made, and what follows.
struct Page {
    text: String,
    rest: &'static str,
}

impl Page {
    /// Goes on to where `mark` ends, and gives what is to be added to there.
    fn up_to(&mut self, mark: &str) -> &mut String {
        let end = self.rest.find(mark).map_or(0, |at| at + mark.len());
        let (before, rest) = self.rest.split_at(end);
        self.text.push_str(before);
        self.rest = rest;
        &mut self.text
    }
}

fn mapping(page: &mut String, mapping: &MappingStatus, stopping: bool) {
    let [one, two] = &mapping.sides;
    let all = mapping.sides.iter().filter_map(|side| side.tunnels.as_ref());
    let tunnels = all.map(tunnels).collect::<Vec<_>>().join("\n");
    let kind = if mapping.public { "public" } else { "private" };
    let about = [kind, &format!("{} {}", one.port, two.port), &tunnels];
    let faults = table::faults(mapping, !stopping).join("\n");
    let end = [mapping.state(), mapping.url.as_deref().unwrap_or("-"), &faults];
    row(page, mapping.name(), about, &mapping.counts, mapping.public, end);
}

/// Adds a row of the table.
fn row(
    page: &mut String,
    name: &str,
    about: [&str; 3],
    counts: &Counts,
    public: bool,
    end: [&str; 3],
) {
    page.push_str("<tr><th scope=\"row\">");
    html(page, name);
    page.push_str("</th>");
    let waiting = if public { counts.users_waiting.to_string() } else { "-".into() };
    let sessions = counts.sessions.to_string();
    let [up, down] = [counts.bytes_up, counts.bytes_down].map(bytes);
    // The script's lines stand behind the numbers.
    for cell in about.into_iter().chain([&*waiting, &sessions, &up, &down, ""]).chain(end) {
        page.push_str("<td>");
        html(page, cell);
        page.push_str("</td>");
    }
    page.push_str("</tr>\n");
}

/// `8/1/60 (9 v3)`: idle, in use and allowed, and how many there are of each version.
fn tunnels(tunnels: &Tunnels) -> String {
    let versions = tunnels.versions.iter().zip(1..).filter(|(count, _)| **count > 0);
    let versions: Vec<_> =
        versions.map(|(count, version)| format!("{count}\u{a0}v{version}")).collect();
    let Tunnels { idle, in_use, allowed, .. } = tunnels;
    match versions.is_empty() {
        true => format!("{idle}/{in_use}/{allowed}"),
        false => format!("{idle}/{in_use}/{allowed} ({})", versions.join(", ")),
    }
}

/// Adds a text from wherever, as HTML shows it. Line breaks stay.
fn html(page: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            char if is_unfit(char) && char != '\n' => page.extend(char.escape_default()),
            char => page.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::Status;

    fn hash(text: &str) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let three = digest.as_ref().chunks(3).map(|three| {
            let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            (bits << (8 * (3 - three.len())), three.len() + 1)
        });
        let letters = three.flat_map(|(bits, count)| {
            (0..count).map(move |at| char::from(LETTERS[bits >> (18 - 6 * at) & 63]))
        });
        format!("'sha256-{}='", letters.collect::<String>())
    }

    #[test]
    fn policy_names_the_pages_own_script_and_style() {
        for (text, what) in [(SCRIPT, "script"), (STYLE, "style")] {
            let rule = format!("{what}-src {};", hash(text));
            assert!(PAGE_FIELDS.contains(&rule), "PAGE_FIELDS of src/report/page.rs lacks {rule}");
            assert!(!text.contains("</"), "{what} would end within itself");
        }
        assert!(PAGE_FIELDS.split("\r\n").all(|line| line.is_empty() || line.contains(": ")));
    }

    #[test]
    fn all_pieces_have_their_place_in_the_page() {
        let page = page(&Report::of(Status::default(), 1_542_719_018_626));
        for piece in [
            &["<style>", STYLE, "</style>"].concat(),
            &["<script>", SCRIPT, "</script>"].concat(),
            "<p id=\"state\" role=\"status\">running at 2018-11-20T13:03:38Z</p>",
            "<tbody id=\"rows\"></tbody>",
            "<tbody id=\"total\"><tr><th scope=\"row\">0 mappings</th>",
        ] {
            assert!(page.contains(piece), "{piece} is not in {page}");
        }
        assert!(page.len() < 24 * 1024, "{}", page.len());
    }

    #[test]
    fn html_is_escaped() {
        let mut page = String::new();
        html(&mut page, "<a href='b'>\"&\u{1b}\n2");
        assert_eq!(page, "&lt;a href=&#39;b&#39;&gt;&quot;&amp;\\u{1b}\n2");
    }
}
