//! The rule checker, tested on made-up trees.

use crate::rules::{Tree, check};

const MEMBERS: [&str; 11] = [
    "shared/model",
    "shared/wire",
    "shared/link",
    "shared/log",
    "shared/store",
    "shared/query",
    "raft",
    "certs",
    "edge-agent",
    "core-hub",
    "tests/chaos",
];

/// A tree that keeps every rule.
fn good() -> Tree {
    let mut tree = Tree::from([
        ("Cargo.toml".to_owned(), "[workspace]\n".to_owned()),
        ("README.md".to_owned(), "See src/root/file and {x}/work/y.\n".to_owned()),
    ]);
    for member in MEMBERS {
        tree.insert(format!("{member}/Cargo.toml"), "[lints]\nworkspace = true\n[dependencies]\nserde.workspace = true\n".to_owned());
        tree.insert(format!("{member}/DESIGN.md"), "# Design\n".to_owned());
        tree.insert(format!("{member}/src/lib.rs"), "//! A head.\n\nfn f() {}\n".to_owned());
    }
    tree
}

/// Adds or replaces a file of a good tree and lists what is found, as `path:line rule`.
fn check_with(path: &str, text: &str) -> Vec<String> {
    let mut tree = good();
    tree.insert(path.to_owned(), text.to_owned());
    check(&tree).into_iter().map(|finding| format!("{}:{} {}", finding.path, finding.line, finding.rule)).collect()
}

#[test]
fn a_good_tree_has_no_findings() {
    assert_eq!(check(&good()), []);
}

#[test]
fn each_rule_finds_its_breach() {
    let head = "//! Head.\n";
    let manifest = "[lints]\nworkspace = true\n";
    for (path, text, expected) in [
        ("vendor/x.txt", String::new(), "vendor/x.txt:0 layout"),
        ("tests/other/a.txt", String::new(), "tests/other/a.txt:0 layout"),
        ("deploy/tool/Cargo.toml", String::new(), "deploy/tool/Cargo.toml:0 layout"),
        ("deploy/a.md", format!("first\nsee {}x\n", concat!("/wo", "rk/")), "deploy/a.md:2 absolute path"),
        ("deploy/a.yml", format!("path: \"{}.ssh\"\n", concat!("/ro", "ot/")), "deploy/a.yml:1 absolute path"),
        ("raft/src/long.rs", format!("{head}{}", "\n".repeat(600)), "raft/src/long.rs:601 file size"),
        ("raft/src/a.rs", "use x;\n//! Too late.\n".to_owned(), "raft/src/a.rs:1 module head"),
        ("raft/src/a.rs", format!("{head}// {}: more\n", concat!("TO", "DO")), "raft/src/a.rs:2 unfinished"),
        ("raft/src/a.rs", format!("{head}\nfn f() {{ todo!() }}\n"), "raft/src/a.rs:3 unfinished"),
        ("raft/src/a.rs", format!("{head}fn f() {{ addr.do_send(x); }}\n"), "raft/src/a.rs:2 banned call"),
        ("edge-agent/src/device/logic.rs", format!("{head}use actix::Actor;\n"), "edge-agent/src/device/logic.rs:2 confined crate"),
        ("edge-agent/src/spool.rs", format!("{head}let db = sled::open(p);\n"), "edge-agent/src/spool.rs:2 confined crate"),
        ("shared/log/src/a.rs", format!("{head}use serde_cbor::from_slice;\n"), "shared/log/src/a.rs:2 confined crate"),
        ("core-hub/src/a.rs", format!("{head}use edge_agent::x;\n"), "core-hub/src/a.rs:2 imports"),
        ("shared/store/src/a.rs", format!("{head}fn f() -> anemone_query::X {{}}\n"), "shared/store/src/a.rs:2 imports"),
        ("raft/Cargo.toml", format!("{manifest}[dependencies]\nanemone-store.workspace = true\n"), "raft/Cargo.toml:0 imports"),
        ("raft/Cargo.toml", format!("{manifest}[build-dependencies]\nserde_cbor.workspace = true\n"), "raft/Cargo.toml:0 confined crate"),
        ("raft/Cargo.toml", format!("{manifest}[dev-dependencies]\nserde = \"1\"\n"), "raft/Cargo.toml:0 manifest"),
        (
            "raft/Cargo.toml",
            format!("{manifest}[target.'cfg(unix)'.dependencies]\nserde = {{ version = \"1\" }}\n"),
            "raft/Cargo.toml:0 manifest",
        ),
        ("raft/Cargo.toml", String::new(), "raft/Cargo.toml:0 manifest"),
    ] {
        assert_eq!(check_with(path, &text), [expected], "{path}:\n{text}");
    }
}

#[test]
fn what_looks_like_a_breach_and_is_none_passes() {
    let head = "//! Head.\n";
    for (path, text) in [
        ("edge-agent/src/local/db.rs", format!("{head}use sled::Db;\n")),
        ("edge-agent/src/device/actor.rs", format!("{head}use actix::Actor;\n")),
        ("shared/wire/src/cbor.rs", format!("{head}use serde_cbor::from_slice;\n")),
        ("raft/src/a.rs", format!("{head}// sled::open and todo!() and x.do_send(y) in words\nlet s = \"use actix::x\";\n")),
        ("tests/chaos/src/a.rs", format!("{head}use core_hub::x; use edge_agent::y;\n")),
        ("raft/Cargo.toml", "[lints]\nworkspace = true\n[dev-dependencies]\nanemone-certs = { workspace = true }\n".to_owned()),
        ("raft/src/long.rs", format!("{head}{}", "\n".repeat(599))),
    ] {
        assert_eq!(check_with(path, &text), <[String; 0]>::default(), "{path}:\n{text}");
    }
}

#[test]
fn a_missing_crate_or_design_is_found() {
    let mut tree = good();
    tree.remove("certs/DESIGN.md");
    tree.remove("core-hub/Cargo.toml");
    let found: Vec<String> = check(&tree).into_iter().map(|finding| finding.what).collect();
    assert_eq!(found, ["anemone-certs has no DESIGN.md", "the crate core-hub is missing"]);
}
