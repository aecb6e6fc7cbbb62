//! The rules themselves: a pure function from a tree of files to findings.

use std::{collections::BTreeMap, fmt};

use crate::scrub::{names, scrub};

/// Paths relative to the root, with their text.
pub(crate) type Tree = BTreeMap<String, String>;

/// A rule broken somewhere.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.what)
    }
}

const SHARED: [&str; 6] = ["anemone-model", "anemone-wire", "anemone-link", "anemone-log", "anemone-store", "anemone-query"];

/// Which of our crates each crate may depend on: `model <- wire <- link`, `model <- store <- query`; `raft` knows only
/// model, wire and log; edge and hub never each other; `chaos` may know everybody.
const MAY_IMPORT: [(&str, &str, &[&str]); 11] = [
    ("anemone-model", "shared/model", &[]),
    ("anemone-wire", "shared/wire", &["anemone-model"]),
    ("anemone-link", "shared/link", &["anemone-model", "anemone-wire"]),
    ("anemone-log", "shared/log", &["anemone-model"]),
    ("anemone-store", "shared/store", &["anemone-model"]),
    ("anemone-query", "shared/query", &["anemone-model", "anemone-store"]),
    ("anemone-raft", "raft", &["anemone-model", "anemone-wire", "anemone-log"]),
    ("anemone-certs", "certs", &["anemone-model"]),
    ("edge-agent", "edge-agent", &SHARED),
    ("core-hub", "core-hub", &[SHARED[0], SHARED[1], SHARED[2], SHARED[3], SHARED[4], SHARED[5], "anemone-raft"]),
    (
        "anemone-chaos",
        "tests/chaos",
        &[SHARED[0], SHARED[1], SHARED[2], SHARED[3], SHARED[4], SHARED[5], "anemone-raft", "anemone-certs", "edge-agent", "core-hub"],
    ),
];

const FOLDERS: [&str; 9] = [".ci", "benches", "certs", "core-hub", "deploy", "docs", "edge-agent", "raft", "shared"];
const LINES_MOST: usize = 600;
const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Judges a tree.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut judge = Judge { tree, findings: Vec::new() };
    for (path, text) in tree {
        judge.place(path);
        judge.machine_paths(path, text);
        if path.ends_with(".rs") {
            judge.source(path, text);
        }
    }
    for (name, folder, allowed) in MAY_IMPORT {
        judge.member(name, folder, allowed);
    }
    judge.findings.sort();
    judge.findings
}

/// The crate a file belongs to.
fn member_of(path: &str) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    MAY_IMPORT.into_iter().find(|(_, folder, _)| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// Names of the tables `[dependencies]` and the like, also under `[target.*]`, that a manifest has.
fn dependencies<'a>(manifest: &'a toml::Table, kinds: &[&str]) -> Vec<(&'a String, &'a toml::Value)> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let of_kinds = tables.into_iter().flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    of_kinds.flat_map(|dependencies| dependencies.iter()).collect()
}

struct Judge<'a> {
    tree: &'a Tree,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn find(&mut self, path: &str, line: usize, rule: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), line, rule, what: what.into() });
    }

    /// Every line of `text` that `broken` finds something in.
    fn lines(&mut self, path: &str, text: &str, rule: &'static str, broken: impl Fn(&str) -> Option<String>) {
        for (line, content) in (1..).zip(text.lines()) {
            if let Some(what) = broken(content) {
                self.find(path, line, rule, what);
            }
        }
    }

    fn place(&mut self, path: &str) {
        if let Some((top, rest)) = path.split_once('/') {
            if !FOLDERS.contains(&top) && top != "tests" {
                self.find(path, 0, "layout", format!("{top}/ is no folder of this project"));
            } else if top == "tests" && !rest.starts_with("chaos/") {
                self.find(path, 0, "layout", "tests/ holds only chaos/");
            }
        }
        if path.ends_with("Cargo.toml") && path != "Cargo.toml" && member_of(path).is_none() {
            self.find(path, 0, "layout", "a crate the rules do not know");
        }
    }

    fn machine_paths(&mut self, path: &str, text: &str) {
        let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
        self.lines(path, text, "absolute path", |line| {
            let found = places.iter().find(|place| {
                line.match_indices(**place)
                    .any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_.-}/".contains(c)))
            })?;
            Some(format!("names {found}, a place on one machine"))
        });
    }

    fn source(&mut self, path: &str, text: &str) {
        let length = text.lines().count();
        if length > LINES_MOST {
            self.find(path, length, "file size", format!("{length} lines, at most {LINES_MOST}"));
        }
        let head = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#!"));
        if !head.is_some_and(|line| line.starts_with("//!")) {
            self.find(path, 1, "module head", "does not open with //! saying what it owns, promises and refuses");
        }
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
            self.lines(path, text, "unfinished", |line| names(line, mark).then(|| format!("contains {mark}")));
        }
        let code = scrub(text);
        for call in ["todo!", "unimplemented!"] {
            let word = call.trim_end_matches('!');
            self.lines(path, &code, "unfinished", |line| (line.contains(call) && names(line, word)).then(|| format!("calls {call}")));
        }
        self.lines(path, &code, "banned call", |line| {
            (names(line, "do_send") && line.contains("do_send(")).then(|| "do_send ignores the mailbox bound".to_owned())
        });
        self.confined(path, &code);
        if let Some((crate_name, _, allowed)) = member_of(path) {
            self.imports(path, &code, crate_name, allowed);
        }
    }

    /// Third-party crates that only certain files may name.
    fn confined(&mut self, path: &str, code: &str) {
        let file = path.rsplit('/').next().unwrap_or(path);
        let actix_may = !path.contains("/src/") || matches!(file, "app.rs" | "actor.rs" | "main.rs");
        let sled_may = path.starts_with("edge-agent/") && (path.contains("local") || path.contains("store_sled"));
        let cbor_may = path.starts_with("shared/wire/");
        let imported =
            |line: &str, word: &str| names(line, word) && (line.contains(&format!("{word}::")) || line.contains(&format!("use {word}")));
        for (word, may, where_) in [
            ("actix", actix_may, "app.rs, actor.rs and main.rs"),
            ("sled", sled_may, "the edge agent's local database and its store backend"),
            ("serde_cbor", cbor_may, "shared/wire"),
        ] {
            if !may {
                self.lines(path, code, "confined crate", |line| imported(line, word).then(|| format!("{word} is named outside {where_}")));
            }
        }
    }

    /// Our crates named in a source file, against what the crate may import or tests with.
    fn imports(&mut self, path: &str, code: &str, crate_name: &str, allowed: &[&str]) {
        let manifest = member_of(path).and_then(|(_, folder, _)| self.tree.get(&format!("{folder}/Cargo.toml")));
        let manifest = manifest.and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
        let for_tests: Vec<&String> = dependencies(&manifest, &["dev-dependencies"]).into_iter().map(|(name, _)| name).collect();
        for (other, ..) in MAY_IMPORT {
            if other == crate_name || allowed.contains(&other) || for_tests.iter().any(|name| *name == other) {
                continue;
            }
            let module = format!("{}::", other.replace('-', "_"));
            self.lines(path, code, "imports", |line| {
                line.match_indices(&module)
                    .any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "_:".contains(c)))
                    .then(|| format!("{crate_name} must not import {other}"))
            });
        }
    }

    fn member(&mut self, name: &'static str, folder: &str, allowed: &[&str]) {
        let path = format!("{folder}/Cargo.toml");
        let Some(text) = self.tree.get(&path) else {
            return self.find(&path, 0, "layout", format!("the crate {name} is missing"));
        };
        if !self.tree.contains_key(&format!("{folder}/DESIGN.md")) {
            self.find(&format!("{folder}/DESIGN.md"), 0, "documentation", format!("{name} has no DESIGN.md"));
        }
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => return self.find(&path, 0, "manifest", error.to_string()),
        };
        if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true) {
            self.find(&path, 0, "manifest", "does not take its lints from the workspace");
        }
        for (dependency, source) in dependencies(&manifest, &DEPENDENCY_TABLES) {
            if source.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                self.find(&path, 0, "manifest", format!("{dependency} does not come from the workspace table"));
            }
        }
        for (dependency, _) in dependencies(&manifest, &["dependencies", "build-dependencies"]) {
            let ours = MAY_IMPORT.iter().any(|(other, ..)| other == dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                self.find(&path, 0, "imports", format!("{name} must not depend on {dependency}"));
            }
            let only = match dependency.as_str() {
                "serde_cbor" => "anemone-wire",
                "sled" | "actix" => "edge-agent",
                _ => continue,
            };
            if name != only {
                self.find(&path, 0, "confined crate", format!("only {only} may depend on {dependency}"));
            }
        }
    }
}
