//! The documents' promises: every test that they name exists, and whatever they link to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The documents, and how many tests each names at least: a check that finds none proves none.
const PAGES: [(&str, usize); 3] =
    [("docs/threat-model.md", 40), ("docs/testing.md", 10), ("docs/results/testing.md", 10)];

/// What scripts write into the results, between a mark and its end.
const MARKS: [&str; 3] = ["results", "embedded", "attack"];

#[test]
fn every_test_named_in_the_documents_exists() {
    let mut missing = Vec::new();
    for (page, least) in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        let named: Vec<_> = text.split('`').skip(1).step_by(2).filter_map(test).collect();
        assert!(named.len() >= least, "{page} names {} tests only", named.len());
        missing.extend(
            named
                .into_iter()
                .filter(|(file, name)| !exists(file, name))
                .map(|(file, name)| format!("{page}: {file}::{name}")),
        );
    }
    assert!(missing.is_empty(), "there is no\n{}", missing.join("\n"));
}

#[test]
fn results_have_the_marks_between_which_scripts_write() {
    let page = fs::read_to_string(root().join("docs/results/performance.md")).unwrap();
    for name in MARKS {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
        assert_eq!((page.matches(&begin).count(), page.matches(&end).count()), (1, 1), "{name}");
        assert!(page.find(&begin) < page.find(&end), "{name}");
    }
}

#[test]
fn every_link_in_the_documents_leads_to_a_file_and_a_heading_that_exist() {
    let mut pages = Vec::new();
    collect(root(), &mut pages);
    collect(&root().join(".github"), &mut pages);
    for folder in ["docs", "docs/decisions", "docs/results"] {
        collect(&root().join(folder), &mut pages);
    }
    let (mut count, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text).filter(|link| !link.contains(':')) {
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let is_there = target.exists()
                && (heading.is_empty()
                    || headings(&fs::read_to_string(&target).unwrap()).contains(heading));
            if !is_there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(count > 50, "{count} links in {} pages", pages.len());
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}

/// The Markdown files of a folder.
fn collect(folder: &Path, pages: &mut Vec<PathBuf>) {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(files.filter(|file| file.extension().is_some_and(|kind| kind == "md")));
}

/// What stands between `](` and `)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
}

/// The headings as links name them: small letters, digits, `-` and `_`, spaces as `-`.
fn headings(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    let title = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    let kept = |letter: &char| letter.is_alphanumeric() || "-_".contains(*letter);
    lines.map(|line| title(line).chars().filter(kept).collect()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `file::test` and `src/file::test`; anything else in backticks names no test.
fn test(quoted: &str) -> Option<(&str, &str)> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/".contains(&b))
    };
    quoted.split_once("::").filter(|(file, name)| is_name(file) && is_name(name))
}

/// Whether the file, or for a module of `src/` one of its own files, has that test.
fn exists(file: &str, name: &str) -> bool {
    let folders = if file.contains('/') { &[""][..] } else { &["tests", "tests/suite"] };
    let mut places = Vec::new();
    for base in folders.iter().map(|folder| root().join(folder).join(file)) {
        places.push(base.with_extension("rs"));
        places.extend(fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let has_it = |place: &PathBuf| fs::read_to_string(place).is_ok_and(|text| is_in(&text, name));
    places.iter().any(has_it)
}

/// A function of that name that is marked as a test, or is listed to be run in both modes.
fn is_in(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let Some(at) = lines.iter().position(|line| line.starts_with(&head)) else { return false };
    let marks = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
    let listed = |list: &str| list.split([',', '\n']).any(|one| one.trim() == name);
    marks.clone().any(|mark| *mark == "#[test]")
        || source
            .split("in_both_modes!(")
            .skip(1)
            .any(|list| list.split_once(')').is_some_and(|(list, _)| listed(list)))
}
