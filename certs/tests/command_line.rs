//! The `certs` program as an operator uses it.

use std::path::Path;
use std::process::{Command, Output};

fn certs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_certs")).args(arguments).output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

#[test]
fn init_issue_show() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, out) = (temporary.path().join("authority"), temporary.path().join("node"));
    let made = stdout(&certs(&["init", "--dir", text(&dir), "--cluster", "demo"]));
    assert!(made.starts_with("authority of cluster demo, valid for 3650 days"), "{made}");

    stdout(&certs(&["issue", "hub", "--dir", text(&dir), "--id", "1", "--san", "127.0.0.1,hub-1.example"]));
    let shown = stdout(&certs(&["show", text(&dir.join("hub-1.crt"))]));
    for part in [
        "identity     anemone://demo/hub/1",
        "names        127.0.0.1, hub-1.example",
        "usage        server, client",
        "fingerprint  sha256:",
    ] {
        assert!(shown.contains(part), "{shown}");
    }

    let issued = stdout(&certs(&["issue", "agent", "--dir", text(&dir), "--pop", "ams1", "--name", "a1", "--out", text(&out)]));
    assert!(issued.starts_with("anemone://demo/pop/ams1/agent/a1"), "{issued}");
    for file in ["agent-ams1-a1.crt", "agent-ams1-a1.key", "ca.crt"] {
        assert!(out.join(file).exists(), "{file}");
    }
    assert!(!out.join("ca.key").exists());
}

#[test]
fn expired_certificates_can_be_made_and_are_shown_as_such() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = text(temporary.path());
    stdout(&certs(&["init", "--dir", dir, "--cluster", "demo"]));
    let period = ["--not-before", "2020-01-01T00:00:00Z", "--not-after", "2020-02-01T00:00:00Z"];
    stdout(&certs(&[&["issue", "hub", "--dir", dir, "--id", "7"], &period[..]].concat()));
    let shown = stdout(&certs(&["show", text(&temporary.path().join("hub-7.crt"))]));
    assert!(shown.contains("2020-01-01T00:00:00Z to 2020-02-01T00:00:00Z (EXPIRED)"), "{shown}");
}

#[test]
fn errors_say_what_and_where() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = text(temporary.path());
    let error = stderr(&certs(&["issue", "hub", "--dir", dir, "--id", "1"]));
    assert!(error.contains("load the authority") && error.contains("ca.crt"), "{error}");
    stdout(&certs(&["init", "--dir", dir, "--cluster", "demo"]));
    let error = stderr(&certs(&["init", "--dir", dir, "--cluster", "demo"]));
    assert!(error.contains("an authority already exists at"), "{error}");

    for (arguments, part) in [
        (&["init", "--dir", dir, "--cluster", "de mo"][..], "character ' '"),
        (&["issue", "hub", "--dir", dir, "--id", "0"], "0 is not in 1.."),
        (&["issue", "hub", "--dir", dir, "--id", "1", "--not-after", "tomorrow"], "expected RFC 3339"),
    ] {
        let output = certs(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(part), "{error}");
    }
}
