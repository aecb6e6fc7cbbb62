//! Who is let in and who is not, on both kinds of listener; what each side says about it.

use std::time::Duration;

use crate::common::{
    AGENT, HUB, Log, When, agent, anywhere, authority, credentials, good, hub, identity, issue, raw_client, raw_session, tls,
};
use anemone_link::{Credentials, Fault, HubEndpoint, LinkError, Refusal, TlsStream, tls_accept, tls_connect};
use anemone_model::Role;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const BOTH: &[Role] = &[Role::Hub, Role::Agent];

async fn answer(hub: HubEndpoint) -> HubEndpoint {
    let mut established = hub.accept().await.expect("a session");
    established.control.writer.send(2, Bytes::from_static(b"welcome")).await.expect("sent");
    established.control.reader.read().await.expect_err("the agent goes away");
    hub
}

fn reason(error: &LinkError) -> &Refusal {
    match error {
        LinkError::Refused { refusal, .. } => refusal,
        other => panic!("not a refusal of ours: {other}"),
    }
}

#[tokio::test]
async fn hub_refuses_agents_with_bad_certificates() {
    let (log, _guard) = Log::capture();
    let (ours, stranger, other) = (authority("demo"), authority("demo"), authority("other"));
    // This hub trusts the authority of another cluster as well: the cluster's name still counts.
    let (endpoint, address) = hub(tls(credentials(&ours, &[&ours, &other], HUB, When::Now)));
    let elsewhere = "anemone://other/pop/ams1/agent/a1";
    // (the agent's credentials, the TLS alert it gets, what the hub's log says)
    let cases: [(Credentials, u8, &[&str]); 5] = [
        (credentials(&stranger, &[&ours], AGENT, When::Now), 48, &["unknown issuer", "O=demo", AGENT]),
        (credentials(&ours, &[&ours], AGENT, When::Past), 45, &["certificate expired at 20", AGENT]),
        (credentials(&ours, &[&ours], AGENT, When::Future), 45, &["certificate is not valid before 20", AGENT]),
        (
            credentials(&ours, &[&ours], "anemone://demo/hub/9", When::Now),
            49,
            &["wrong role: hub, only agent is admitted", "anemone://demo/hub/9"],
        ),
        (credentials(&other, &[&ours], elsewhere, When::Now), 49, &["wrong cluster: other, this is demo", elsewhere]),
    ];
    for (index, (bad, expected_alert, parts)) in cases.into_iter().enumerate() {
        let own_cluster = bad.identity().cluster().as_str() == "demo";
        // The agent of the other cluster refuses the hub itself; a raw client does not.
        if own_cluster {
            let agent = agent(tls(bad));
            let error = agent.connect(address, Some(1), 1, Bytes::new()).await.expect_err("refused");
            let LinkError::RefusedByPeer { alert, .. } = &error else { panic!("{error}") };
            assert_eq!(*alert, expected_alert, "{error}");
            assert!(error.fault() == Fault::Peer && error.to_string().contains("refused this node"), "{error}");
            let local = agent.local_address().unwrap().to_string();
            log.wait_for(&[&["WARN", "refused peer", "link=\"sessions\"", &local], parts].concat()).await;
        } else {
            let (_raw, connection) =
                raw_session(raw_client(&ours, Some(&issue(&other, elsewhere, When::Now)), b"anemone/1"), address).await;
            if let Ok(connection) = connection {
                connection.closed().await;
            }
            log.wait_for(&[&["WARN", "refused peer"], parts].concat()).await;
        }
        assert_eq!(endpoint.counts().refused, index as u64 + 1);
    }
    assert_eq!(endpoint.counts().accepted, 0);

    // Everybody else is unaffected.
    let hub = tokio::spawn(answer(endpoint));
    let established = agent(good(&ours, AGENT)).connect(address, Some(1), 1, Bytes::new()).await.unwrap();
    assert_eq!(established.session.identity(), &identity(HUB));
    drop(established);
    assert_eq!(hub.await.unwrap().counts().accepted, 1);
}

#[tokio::test]
async fn hub_refuses_an_agent_without_certificate() {
    let (log, _guard) = Log::capture();
    let ours = authority("demo");
    let (endpoint, address) = hub(good(&ours, HUB));
    let (_raw, connection) = raw_session(raw_client(&ours, None, b"anemone/1"), address).await;
    if let Ok(connection) = connection {
        assert!(connection.closed().await.to_string().contains("116"));
    }
    log.wait_for(&["WARN", "refused peer", "claimed=nobody", "no certificate presented", "127.0.0.1:"]).await;
    assert_eq!(endpoint.counts().refused, 1);
}

#[tokio::test]
async fn agent_refuses_hubs_with_bad_certificates() {
    let (log, _guard) = Log::capture();
    let (ours, stranger, other) = (authority("demo"), authority("demo"), authority("other"));
    let cases: [(Credentials, &str); 6] = [
        (credentials(&stranger, &[&ours], HUB, When::Now), "unknown issuer"),
        (credentials(&ours, &[&ours], HUB, When::Past), "certificate expired at 20"),
        (credentials(&ours, &[&ours], HUB, When::Future), "certificate is not valid before 20"),
        (credentials(&ours, &[&ours], "anemone://demo/pop/nyc1/agent/a9", When::Now), "wrong role: agent, only hub is admitted"),
        (credentials(&ours, &[&ours], "anemone://demo/hub/2", When::Now), "wrong peer: expected anemone://demo/hub/1"),
        (credentials(&other, &[&other], "anemone://other/hub/1", When::Now), "wrong cluster: other, this is demo"),
    ];
    let agent = agent(tls(credentials(&ours, &[&ours, &other], AGENT, When::Now)));
    for (bad, text) in cases {
        let claimed = bad.identity().to_string();
        let (endpoint, address) = hub(tls(bad));
        let error = agent.connect(address, Some(1), 1, Bytes::new()).await.expect_err("refused");
        assert!(reason(&error).to_string().contains(text), "{error}");
        log.wait_for(&["refused peer", &address.to_string(), &claimed, text]).await;
        // The hub hears of it.
        log.wait_for(&["peer refused this node", &agent.local_address().unwrap().to_string()]).await;
        assert_eq!(endpoint.counts().accepted, 0);
    }
}

#[tokio::test]
async fn certificates_without_exactly_one_identity_are_refused() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
    let (log, _guard) = Log::capture();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let ours = authority("demo");
    let hub_certificate = issue(&ours, HUB, When::Now);
    let roots = format!("{}{}", ours.cert_pem(), root.pem());
    let (_endpoint, address) = hub(tls(Credentials::from_pem(&hub_certificate.cert_pem, &hub_certificate.key_pem, &roots).unwrap()));
    for (uris, text) in [
        (&["https://example.org/"][..], "certificate has no identity"),
        (&[AGENT, "anemone://demo/pop/ams1/agent/a2"], "certificate has 2 identities where one is allowed"),
        (&["anemone://demo/pop/ams1"], "certificate has an invalid identity"),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cert_pem = params.signed_by(&key, &root).unwrap().pem();
        let refused = Credentials::from_pem(&cert_pem, &key.serialize_pem(), ours.cert_pem()).expect_err("not usable for ourselves either");
        assert!(refused.to_string().contains(text), "{refused}");

        let issued = anemone_certs::Issued { cert_pem, key_pem: key.serialize_pem(), serial: String::new() };
        let (_raw, connection) = raw_session(raw_client(&ours, Some(&issued), b"anemone/1"), address).await;
        if let Ok(connection) = connection {
            connection.closed().await;
        }
        log.wait_for(&["refused peer", text]).await;
    }
}

/// Connects over TCP and tells how it ended: the identity seen and the echo, or the error of either step.
async fn echo(address: std::net::SocketAddr, tls: &anemone_link::Tls, expected: &str) -> Result<String, LinkError> {
    let mut stream = tls_connect(address, tls, &identity(expected)).await?;
    let seen = stream.peer_identity().identity.to_string();
    let mut bytes = [0; 4];
    let exchanged = async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        stream.read_exact(&mut bytes).await
    };
    match exchanged.await {
        Ok(_) => Ok(seen),
        Err(error) => Err(*error.into_inner().expect("an explained error").downcast().expect("a link error")),
    }
}

async fn serve_echo(mut stream: TlsStream) -> std::io::Result<()> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[tokio::test]
async fn grpc_listener_admits_hubs_only() {
    let (log, _guard) = Log::capture();
    let (ours, stranger) = (authority("demo"), authority("demo"));
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = tls_accept(listener, good(&ours, HUB), &[Role::Hub]);
    let counters = incoming.counters();
    let serving = tokio::spawn(async move {
        let mut peers = Vec::new();
        while let Some(stream) = incoming.accept().await {
            peers.push(stream.peer_identity().identity.to_string());
            serve_echo(stream).await.expect("an echo");
            if peers.len() == 2 {
                break;
            }
        }
        peers
    });

    assert_eq!(echo(address, &good(&ours, "anemone://demo/hub/2"), HUB).await.unwrap(), HUB);

    let second = "anemone://demo/hub/2";
    for (bad, expected_alert, parts) in [
        (credentials(&ours, &[&ours], AGENT, When::Now), 49, ["wrong role: agent, only hub is admitted", AGENT]),
        (credentials(&stranger, &[&ours], second, When::Now), 48, ["unknown issuer", second]),
        (credentials(&ours, &[&ours], second, When::Past), 45, ["certificate expired at 20", second]),
        (credentials(&ours, &[&ours], second, When::Future), 45, ["certificate is not valid before 20", second]),
    ] {
        let error = echo(address, &tls(bad), HUB).await.expect_err("refused");
        assert!(matches!(error, LinkError::RefusedByPeer { alert, .. } if alert == expected_alert), "{error}");
        log.wait_for(&["WARN", "refused peer", "link=\"grpc\"", parts[0], parts[1]]).await;
    }

    // No certificate, and no TLS at all.
    let connector = TlsConnector::from(std::sync::Arc::new(raw_client(&ours, None, b"h2")));
    let tcp = TcpStream::connect(address).await.unwrap();
    if let Ok(mut stream) = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await {
        stream.read_u8().await.expect_err("refused");
    }
    log.wait_for(&["refused peer", "link=\"grpc\"", "no certificate presented"]).await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    log.wait_for(&["link not made", "link=\"grpc\"", &tcp.local_addr().unwrap().to_string()]).await;

    // The other side's choice: a hub that is not the one expected.
    let error = echo(address, &good(&ours, "anemone://demo/hub/3"), "anemone://demo/hub/7").await.expect_err("refused");
    assert!(matches!(reason(&error), Refusal::WrongPeer { .. }), "{error}");

    assert_eq!(echo(address, &good(&ours, "anemone://demo/hub/3"), HUB).await.unwrap(), HUB);
    assert_eq!(serving.await.unwrap(), ["anemone://demo/hub/2", "anemone://demo/hub/3"]);
    let counts = counters.counts();
    assert_eq!((counts.accepted, counts.refused, counts.failed), (2, 5, 2));
}

#[tokio::test]
async fn no_session_is_resumed() {
    let ours = authority("demo");
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = tls_accept(listener, good(&ours, HUB), BOTH);
    tokio::spawn(async move {
        while let Some(stream) = incoming.accept().await {
            tokio::spawn(serve_echo(stream));
        }
    });
    // This client would resume.
    let connector = TlsConnector::from(std::sync::Arc::new(raw_client(&ours, Some(&issue(&ours, AGENT, When::Now)), b"h2")));
    for _ in 0..2 {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        let connection = stream.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn credentials_are_swapped_for_the_next_handshake() {
    let ours = authority("demo");
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = good(&ours, HUB);
    let mut incoming = tls_accept(listener, std::sync::Arc::clone(&server), BOTH);
    tokio::spawn(async move { while incoming.accept().await.is_some() {} });
    let client = good(&ours, AGENT);
    let serial = async || tls_connect(address, &client, &identity(HUB)).await.unwrap().peer_identity().serial.clone();

    let before = serial().await;
    assert_eq!(serial().await, before);
    server.replace(credentials(&ours, &[&ours], HUB, When::Now)).unwrap();
    assert_ne!(serial().await, before);
    let error = server.replace(credentials(&ours, &[&ours], "anemone://demo/hub/2", When::Now)).unwrap_err();
    assert_eq!(error.to_string(), "new credentials are of anemone://demo/hub/2, this process is anemone://demo/hub/1");
}

#[tokio::test]
async fn credentials_come_from_files_and_errors_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority("demo");
    let (_, cert, key) = ours.issue_into(dir.path(), &identity(HUB), &anemone_certs::IssueOptions::default()).unwrap();
    let (_, other_cert, other_key) = ours.issue_into(dir.path(), &identity(AGENT), &anemone_certs::IssueOptions::default()).unwrap();
    let root = dir.path().join("ca.crt");
    let loaded = Credentials::load(&cert, &key, &root).unwrap();
    assert_eq!(loaded.identity(), &identity(HUB));
    assert!(loaded.not_after().ends_with('Z'), "{}", loaded.not_after());

    let absent = dir.path().join("absent.crt");
    let empty = dir.path().join("empty.crt");
    std::fs::write(&empty, "").unwrap();
    for (cert, key, root, text) in [
        (&absent, &key, &root, "read "),
        (&empty, &key, &root, "empty.crt: expected a certificate in PEM form: none found"),
        (&cert, &cert, &root, "hub-1.crt: expected a private key in PEM form"),
        (&cert, &key, &key, "hub-1.key: expected a certificate in PEM form"),
        (&cert, &other_key, &root, "agent-ams1-a1.key is not usable with "),
        (&other_cert, &key, &root, "hub-1.key is not usable with "),
        (&root, &key, &root, "ca.crt: certificate has no identity"),
    ] {
        let error = Credentials::load(cert, key, root).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_hub_that_never_answers_is_given_up() {
    let silent = std::net::UdpSocket::bind(anywhere()).unwrap();
    let ours = authority("demo");
    let options = anemone_link::LinkOptions { handshake: Duration::from_millis(100), ..anemone_link::LinkOptions::default() };
    let agent = anemone_link::AgentEndpoint::bind(anywhere(), good(&ours, AGENT), options).unwrap();
    let error = agent.connect(silent.local_addr().unwrap(), None, 1, Bytes::new()).await.expect_err("nobody there");
    assert!(matches!(error, LinkError::TimedOut { .. }) && error.fault() == Fault::Retry, "{error}");
}
