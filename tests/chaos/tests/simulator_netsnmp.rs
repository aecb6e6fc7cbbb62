//! The simulator as Debian's net-snmp tools see it, v1 and v2c, and recordings replayed through them.

use std::{fs, path::PathBuf, process::Command};

use anemone_chaos::sim::{FleetSpec, GroupSpec, InventoryItem, Kind, LedgerBound, Recording, Simulator};

/// Runs a net-snmp tool; its output lines.
fn run(tool: &str, item: &InventoryItem, args: &[&str], oids: &[&str]) -> Vec<String> {
    let output = Command::new(tool)
        .args(["-On", "-Oe", "-t", "5", "-r", "0", "-c", &item.community])
        .args(args)
        .arg(item.address.to_string())
        .args(oids)
        .env("MIBS", "")
        .output()
        .unwrap_or_else(|error| panic!("{tool} (Debian package snmp): {error}"));
    assert!(output.status.success(), "{tool} {oids:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("ANEMONE_CORPUS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"));
    let folder = folder.join("snmprec");
    folder.is_dir().then_some(folder)
}

#[test]
fn walks_of_synthesised_devices_are_whole_and_ordered() {
    let group = |kind| GroupSpec { pop: "nyc1".into(), kind: Some(kind), count: 1, ..GroupSpec::default() };
    let simulator =
        Simulator::start(&FleetSpec::new(0, vec![group(Kind::AccessSwitch), group(Kind::LegacySwitch)]), LedgerBound::Off).expect("starts");
    for (item, columns, narrow) in simulator.inventory().iter().zip([41, 33]).map(|(item, columns)| (item, columns, 33)) {
        let walk = run("snmpwalk", item, &["-v2c"], &[".1"]);
        assert_eq!(walk.len() - 1, 10 + columns * item.interfaces, "{} ends with: {:?}", item.name, walk.last());
        assert!(walk.last().is_some_and(|line| line.contains("No more variables left")));
        let bulk = run("snmpbulkwalk", item, &["-v2c", "-Cr40"], &[".1"]);
        let names = |lines: &[String]| lines.iter().filter_map(|line| line.split(" = ").next().map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(names(&walk), names(&bulk));
        // v1 does not see 64-bit counters.
        let old = run("snmpwalk", item, &["-v1"], &[".1.3.6.1.2.1.2"]);
        assert_eq!(old.len(), 1 + 22 * item.interfaces);
        let extended = run("snmpwalk", item, &["-v1"], &[".1.3.6.1.2.1.31.1.1"]);
        assert_eq!(extended.len(), (narrow - 22) * item.interfaces);
    }
    let item = &simulator.inventory()[0];
    let table = run("snmpget", item, &["-v2c"], &["1.3.6.1.2.1.1.5.0", "1.3.6.1.2.1.31.1.1.1.1.10101", "1.3.6.1.2.1.2.2.1.6.10101"]);
    assert_eq!(table[..2], [".1.3.6.1.2.1.1.5.0 = STRING: \"nyc1-sw-01\"", ".1.3.6.1.2.1.31.1.1.1.1.10101 = STRING: \"Gi1/0/1\""]);
    assert!(table[2].contains("Hex-STRING: 02 "), "{}", table[2]);
}

#[test]
fn v1_and_set_get_the_errors_of_the_standard() {
    let group = GroupSpec { pop: "nyc1".into(), kind: Some(Kind::Server), count: 1, ..GroupSpec::default() };
    let simulator = Simulator::start(&FleetSpec::new(0, vec![group]), LedgerBound::Off).expect("starts");
    let item = &simulator.inventory()[0];
    for (tool, args, oids, expected) in [
        ("snmpget", ["-v1"], vec!["1.3.6.1.9.9"], "noSuchName"),
        ("snmpget", ["-v1"], vec!["1.3.6.1.2.1.31.1.1.1.6.1"], "noSuchName"),
        ("snmpset", ["-v2c"], vec!["1.3.6.1.2.1.1.5.0", "s", "x"], "noAccess"),
    ] {
        let output = Command::new(tool)
            .args(args)
            .args(["-c", "public", &item.address.to_string()])
            .args(&oids)
            .env("MIBS", "")
            .output()
            .expect("runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(expected), "{tool} {oids:?}: {errors}");
    }
}

#[test]
fn a_recording_is_replayed_line_by_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("small.snmprec");
    let lines = [
        "1.3.6.1.2.1.1.1.0|4|a box",
        "1.3.6.1.2.1.1.2.0|6|1.3.6.1.4.1.9.1.1",
        "1.3.6.1.2.1.1.3.0|67|4242",
        "1.3.6.1.2.1.2.2.1.2.9|4x|65746839",
        "1.3.6.1.2.1.2.2.1.2.10|4|eth10",
        "1.3.6.1.2.1.2.2.1.10.9|65|4294967290",
        "1.3.6.1.2.1.4.20.1.1.10.0.0.1|64|10.0.0.1",
        "1.3.6.1.2.1.31.1.1.1.6.9|70|9223372036854775809",
    ];
    fs::write(&path, lines.join("\n")).expect("written");
    let still = GroupSpec { pop: "ams1".into(), recording: Some(path.clone()), count: 1, ..GroupSpec::default() };
    let moving = GroupSpec { animate: true, ..still.clone() };
    let simulator = Simulator::start(&FleetSpec::new(0, vec![still, moving]), LedgerBound::Entries(1000)).expect("starts");
    let inventory = simulator.inventory();
    let walk = run("snmpwalk", &inventory[0], &["-v2c", "-Ot"], &[".1"]);
    assert_eq!(
        walk[..8],
        [
            ".1.3.6.1.2.1.1.1.0 = STRING: \"a box\"",
            ".1.3.6.1.2.1.1.2.0 = OID: .1.3.6.1.4.1.9.1.1",
            ".1.3.6.1.2.1.1.3.0 = 4242",
            ".1.3.6.1.2.1.2.2.1.2.9 = STRING: \"eth9\"",
            ".1.3.6.1.2.1.2.2.1.2.10 = STRING: \"eth10\"",
            ".1.3.6.1.2.1.2.2.1.10.9 = Counter32: 4294967290",
            ".1.3.6.1.2.1.4.20.1.1.10.0.0.1 = IpAddress: 10.0.0.1",
            ".1.3.6.1.2.1.31.1.1.1.6.9 = Counter64: 9223372036854775809"
        ]
    );
    let name = "1.3.6.1.2.1.31.1.1.1.6.9";
    let first = run("snmpget", &inventory[1], &["-v2c"], &[name]);
    while run("snmpget", &inventory[1], &["-v2c"], &[name]) == first {}
    let ledger = simulator.ledger(&inventory[1].name, i64::MIN, i64::MAX).expect("known");
    assert_eq!(ledger[0].if_name.as_deref(), Some("eth9"));
}

#[test]
fn recordings_of_the_corpus_replay_whole() {
    let Some(corpus) = corpus() else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "there is no ../shared/corpus beside the checkout, and ANEMONE_CORPUS names none"
        );
        eprintln!("skipped: there is no ../shared/corpus beside the checkout, and ANEMONE_CORPUS names none");
        return;
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(&corpus).expect("readable").flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "snmprec"));
    paths.sort();
    assert!(!paths.is_empty());
    // A spread of small ones: each is walked by a process of its own.
    paths.retain(|path| fs::metadata(path).is_ok_and(|file| file.len() < 60_000));
    let chosen: Vec<PathBuf> = paths.iter().step_by(paths.len().div_ceil(12)).cloned().collect();
    let groups = chosen.iter().map(|path| GroupSpec { pop: "lab".into(), recording: Some(path.clone()), count: 1, ..GroupSpec::default() });
    let simulator = Simulator::start(&FleetSpec::new(0, groups.collect()), LedgerBound::Off).expect("starts");
    for (path, item) in chosen.iter().zip(simulator.inventory()) {
        let recording = Recording::read(path).expect("readable");
        let walk = run("snmpbulkwalk", &item, &["-v2c", "-Cr50"], &[".1"]);
        let names = walk.iter().filter(|line| line.starts_with(".") && line.contains(" = ") && !line.contains("No more variables")).count();
        assert_eq!(names, recording.len(), "{}", path.display());
    }
}
