//! The authority through its library: what it issues, what it stores, what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anemone_certs::{AUTHORITY_CERT, AUTHORITY_KEY, Authority, CertsError, IssueOptions, Summary, Validity, summaries};
use anemone_model::{Identity, Name};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn identity(uri: &str) -> Identity {
    uri.parse().expect("an identity")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
}

fn only(path: &Path) -> Summary {
    let mut found = summaries(path).expect("a certificate");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn issued_certificates_carry_identity_usage_names_and_serial() {
    let dir = tempfile::tempdir().unwrap();
    Authority::create(&name("demo"), Validity::days(365)).unwrap().save(dir.path()).unwrap();
    let authority = Authority::load(dir.path()).unwrap();
    assert_eq!(authority.cluster(), &name("demo"));

    let options = IssueOptions { sans: vec!["127.0.0.1".into(), "::1".into(), "hub-1.example".into()], ..IssueOptions::default() };
    let (issued, cert, key) = authority.issue_into(dir.path(), &identity("anemone://demo/hub/1"), &options).unwrap();
    let hub = only(&cert);
    assert_eq!(hub.identities, ["anemone://demo/hub/1"]);
    assert_eq!(hub.names, ["127.0.0.1", "::1", "hub-1.example"]);
    assert_eq!(hub.usages, ["server", "client"]);
    assert_eq!(hub.serial, issued.serial);
    assert_eq!(hub.serial.len(), 32);
    assert_eq!(hub.issuer, only(&dir.path().join(AUTHORITY_CERT)).subject);
    assert_eq!(mode(&key), 0o600);
    assert!(!hub.authority);

    let (other, cert, _) =
        authority.issue_into(dir.path(), &identity("anemone://demo/pop/ams1/agent/a1"), &IssueOptions::default()).unwrap();
    assert!(cert.ends_with("agent-ams1-a1.crt"));
    assert_eq!(only(&cert).usages, ["client"]);
    assert_ne!(other.serial, issued.serial);
    let text = only(&cert).to_string();
    assert!(text.contains("identity     anemone://demo/pop/ams1/agent/a1") && text.contains("valid, 29 days left"), "{text}");
}

#[test]
fn validity_starts_five_minutes_ago() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&name("demo"), Validity::days(2)).unwrap();
    let options = IssueOptions { validity: Validity::days(1), ..IssueOptions::default() };
    let (_, cert, _) = authority.issue_into(dir.path(), &identity("anemone://demo/hub/1"), &options).unwrap();
    let hub = only(&cert);
    assert_eq!((hub.not_after - hub.not_before).whole_minutes(), 24 * 60 + 5);
}

#[test]
fn an_existing_authority_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap();
    let read = || [AUTHORITY_CERT, AUTHORITY_KEY].map(|file| fs::read(dir.path().join(file)).unwrap());
    let before = read();
    assert_eq!(mode(&dir.path().join(AUTHORITY_KEY)), 0o600);

    let error = Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap_err();
    assert!(matches!(error, CertsError::AuthorityExists { .. }));
    assert!(error.to_string().contains("already exists at"), "{error}");
    assert_eq!(read(), before);

    // Half of one is still one: the key may have signed something.
    fs::remove_file(dir.path().join(AUTHORITY_CERT)).unwrap();
    let error = Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap_err();
    assert!(error.to_string().contains(AUTHORITY_KEY), "{error}");
    assert!(!fs::read_dir(dir.path()).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
}

#[test]
fn two_authorities_of_one_cluster_differ_in_name() {
    let [a, b] = [(); 2].map(|()| {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap();
        only(&dir.path().join(AUTHORITY_CERT))
    });
    assert_ne!(a.subject, b.subject);
    assert!(a.authority && a.identities.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let authority = Authority::create(&name("demo"), Validity::days(10)).unwrap();
    let hub = identity("anemone://demo/hub/1");
    let with = |validity| IssueOptions { validity, ..IssueOptions::default() };
    let refused = |identity: &Identity, options: &IssueOptions| match authority.issue(identity, options) {
        Ok(_) => panic!("issued"),
        Err(error) => error.to_string(),
    };
    for (error, part) in [
        (refused(&identity("anemone://other/hub/1"), &with(Validity::days(1))), "not of cluster demo"),
        (refused(&hub, &with(Validity::days(11))), "longer than its authority"),
        (refused(&hub, &with(Validity::around_now(10, 5))), "is empty"),
        (refused(&hub, &IssueOptions { sans: vec!["not a host".into()], validity: Validity::days(1) }), "\"not a host\" is neither"),
        (refused(&hub, &IssueOptions { sans: vec![String::new()], validity: Validity::days(1) }), "\"\" is neither"),
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn damaged_authority_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let load = || match Authority::load(dir.path()) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    };
    let (cert, key) = (dir.path().join(AUTHORITY_CERT), dir.path().join(AUTHORITY_KEY));
    assert!(load().contains("read") && load().contains("ca.crt"), "{}", load());

    Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    Authority::create(&name("demo"), Validity::days(1)).unwrap().save(other.path()).unwrap();
    fs::copy(other.path().join(AUTHORITY_KEY), &key).unwrap();
    assert!(load().contains("ca.key: not the key of"), "{}", load());

    fs::write(&key, "rubbish").unwrap();
    assert!(load().contains("ca.key: not a private key"), "{}", load());

    fs::write(&cert, "rubbish").unwrap();
    assert!(load().contains("ca.crt: not a PEM file"), "{}", load());

    let (_, leaf, _) = Authority::load(other.path())
        .unwrap()
        .issue_into(
            other.path(),
            &identity("anemone://demo/hub/1"),
            &IssueOptions { validity: Validity::around_now(0, 60), ..IssueOptions::default() },
        )
        .unwrap();
    fs::copy(leaf, &cert).unwrap();
    assert!(load().contains("ca.crt: not the certificate of an authority"), "{}", load());
}

#[test]
fn a_directory_of_another_authority_is_left_alone() {
    let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap();
    let stranger = Authority::create(&name("demo"), Validity::days(60)).unwrap();
    let hub = identity("anemone://demo/hub/1");
    assert!(matches!(stranger.issue_into(dir.path(), &hub, &IssueOptions::default()), Err(CertsError::AuthorityDiffers { .. })));
    assert!(!dir.path().join("hub-1.crt").exists());

    stranger.issue_into(other.path(), &hub, &IssueOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(other.path().join(AUTHORITY_CERT)).unwrap(), stranger.cert_pem());
    assert!(!other.path().join(AUTHORITY_KEY).exists());
}

#[test]
fn show_names_the_file_that_holds_no_certificate() {
    let dir = tempfile::tempdir().unwrap();
    Authority::create(&name("demo"), Validity::days(1)).unwrap().save(dir.path()).unwrap();
    let error = summaries(&dir.path().join(AUTHORITY_KEY)).unwrap_err().to_string();
    assert!(error.contains("ca.key: holds no certificate"), "{error}");
    let error = summaries(&dir.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("read") && error.contains("absent"), "{error}");
}

#[test]
fn a_certificate_of_another_identity_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&name("demo"), Validity::days(60)).unwrap();
    let issue = |uri| authority.issue_into(dir.path(), &identity(uri), &IssueOptions::default());
    let (first, cert, _) = issue("anemone://demo/pop/a-b/agent/c").unwrap();
    assert!(matches!(issue("anemone://demo/pop/a/agent/b-c"), Err(CertsError::IdentityDiffers { .. })));
    assert_eq!(only(&cert).serial, first.serial);
    let (renewed, ..) = issue("anemone://demo/pop/a-b/agent/c").unwrap();
    assert_eq!(only(&cert).serial, renewed.serial);
}
