//! Typos and bad values, each with the exact error it gives.

use super::*;

const GOOD: &str = r#"
[agent]
pop = "ams1"
name = "a1"
data_dir = "data"

[tls]
ca = "ca.crt"
cert = "/etc/anemone/a1.crt"
key = "a1.key"

[[hub]]
id = 1
address = "127.0.0.1:7443"
"#;

fn errors(text: &str) -> String {
    Config::parse(Path::new("agent.toml"), text).unwrap_err().to_string()
}

#[test]
fn a_small_config_has_defaults() {
    let config = Config::parse(Path::new("/etc/anemone/agent.toml"), GOOD).unwrap();
    assert_eq!(config.agent.to_string(), "ams1/a1");
    assert_eq!(config.data_dir, Path::new("/etc/anemone/data"));
    assert_eq!((config.tls.ca.as_path(), config.tls.cert.as_path()), (Path::new("/etc/anemone/ca.crt"), Path::new("/etc/anemone/a1.crt")));
    assert_eq!(config.http.to_string(), "127.0.0.1:9180");
    assert_eq!(config.hubs, [Hub { id: 1, address: "127.0.0.1:7443".into() }]);
    assert_eq!(config.spool.max_bytes.to_string(), "2GiB");
    assert_eq!(config.link.silence, Duration::from_secs(3));
}

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge-agent.example.toml");
    let example = Config::load(&path).unwrap();
    let minimal = Config::parse(&path, GOOD).unwrap();
    let named = |config: Config| (config.http, config.spool, config.local, config.poll, config.batch, config.link);
    assert_eq!(named(example), named(minimal), "the example states the defaults");
}

#[test]
fn a_typo_is_named_with_place_and_suggestion() {
    let cases: [(&str, &str, &str); 13] = [
        (
            "data_dir = ",
            "data_dri = ",
            "agent.toml:2:1: \"agent.data_dir\" is missing: a path in quotes is required\nagent.toml:5:1: unknown key \"agent.data_dri\"; did you mean \"data_dir\"?",
        ),
        ("[tls]", "colour = 1\n[tls]", "agent.toml:7:1: unknown key \"agent.colour\"; known here: pop, name, data_dir, http"),
        ("[[hub]]", "[spol]\nmax_bytes = 1\n[[hub]]", "agent.toml:12:2: unknown key \"spol\"; did you mean \"spool\"?"),
        ("id = 1", "id = \"1\"", "agent.toml:13:6: \"hub.id\" must be a whole number, not a string"),
        ("id = 1", "id = 0", "agent.toml:13:6: \"hub.id\": hubs are numbered from 1"),
        ("id = 1", "id = -1", "agent.toml:13:6: \"hub.id\": -1 is not a whole number from 0 to 18446744073709551615"),
        (
            "\"ams1\"",
            "\"ams 1\"",
            "agent.toml:3:7: \"agent.pop\": name \"ams 1\" has the character ' ' at byte 3; allowed are a-z A-Z 0-9 . _ - and the first must be a letter or digit",
        ),
        ("127.0.0.1:7443", "hub1", "agent.toml:14:11: \"hub.address\": \"hub1\" has no port; write host:port"),
        (
            "data_dir",
            "http = \"localhost\"\ndata_dir",
            "agent.toml:5:8: \"agent.http\": \"localhost\" is not an address and port, such as \"127.0.0.1:9180\" or \"[::1]:9180\"",
        ),
        (
            "[tls]",
            "[spool]\nmax_bytes = \"2gib\"\n[tls]",
            "agent.toml:8:13: \"spool.max_bytes\": \"2gib\" is not a size; write a whole number and a unit, such as 64KiB, 256MiB or 2GiB",
        ),
        (
            "[tls]",
            "[spool]\nmax_bytes = \"100MiB\"\n[tls]",
            "agent.toml:8:13: \"spool.max_bytes\": 100MiB is less than three segments of 64MiB",
        ),
        (
            "[tls]",
            "[link]\nheartbeat = 1\n[tls]",
            "agent.toml:8:13: \"link.heartbeat\" must be a duration in quotes, such as \"10s\", not an integer",
        ),
        ("[tls]", "[batch]\nmax_delay = \"5h\"\n[tls]", "agent.toml:8:13: \"batch.max_delay\": 5h is outside 50ms to 1m"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(errors(&GOOD.replacen(from, to, 1)), expected);
    }
}

#[test]
fn what_is_not_toml_is_placed() {
    let error = errors(&GOOD.replacen("\"a1\"", "\"a1", 1));
    assert!(error.starts_with("agent.toml:4:"), "{error}");
}

#[test]
fn missing_parts_are_all_reported() {
    let error = errors("");
    for part in ["agent.pop", "agent.name", "agent.data_dir", "tls.ca", "tls.cert", "tls.key", "no hub is named"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let twice = format!("{GOOD}[[hub]]\nid = 1\naddress = \"h:1\"\n");
    assert_eq!(errors(&twice), "agent.toml:16:6: \"hub.id\": hub 1 is named twice");
    assert!(matches!(Config::load(Path::new("/nonexistent/agent.toml")), Err(ConfigError::Read { .. })));
}
