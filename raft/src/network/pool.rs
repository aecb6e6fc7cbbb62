//! Connections to peers, shared by everything that talks to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use openraft::network::RaftNetworkFactory;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::client::PeerClient;
use super::proto::raft_client::RaftClient;
use super::{Connector, MESSAGE_BYTES_MAX};
use crate::types::{Peer, TypeConfig};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that vanished without a FIN is noticed after ping interval + timeout.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// One peer: its two connections and whether it answered last.
pub(super) struct PeerLink {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) entries: RaftClient<Channel>,
    pub(super) bulk: RaftClient<Channel>,
    reachable: AtomicBool,
}

impl PeerLink {
    fn new(id: u64, address: &str, connector: &Connector) -> Self {
        Self {
            id,
            address: address.to_owned(),
            entries: client(id, address, connector),
            bulk: client(id, address, connector),
            reachable: AtomicBool::new(true),
        }
    }

    /// Logs only changes: openraft asks several times a second.
    pub(super) fn answered(&self) {
        if !self.reachable.swap(true, Ordering::Relaxed) {
            tracing::info!(hub = self.id, address = self.address, "hub answers again");
        }
    }

    pub(super) fn failed(&self, reason: &dyn fmt::Display) {
        if self.reachable.swap(false, Ordering::Relaxed) {
            tracing::warn!(hub = self.id, address = self.address, %reason, "hub does not answer");
        }
    }
}

fn client(id: u64, address: &str, connector: &Connector) -> RaftClient<Channel> {
    let (connector, address) = (Arc::clone(connector), address.to_owned());
    // The URI only names the peer; the connector knows where it is.
    let endpoint = Endpoint::from_static("http://hub")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connecting = connector(id, address.clone());
        async move { connecting.await.map(TokioIo::new) }
    }));
    RaftClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Makes clients for openraft; they share one [`PeerLink`] per peer.
pub(crate) struct Network {
    connector: Connector,
    /// Addresses from the configuration win over those recorded when the cluster was formed.
    configured: BTreeMap<u64, Peer>,
    install_timeout: Duration,
    links: Mutex<HashMap<(u64, String), Arc<PeerLink>>>,
}

impl Network {
    pub(crate) fn new(connector: Connector, configured: BTreeMap<u64, Peer>, install_timeout: Duration) -> Self {
        Self { connector, configured, install_timeout, links: Mutex::new(HashMap::new()) }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        let address = self.configured.get(&target).unwrap_or(node).raft.clone();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry((target, address.clone())).or_insert_with(|| Arc::new(PeerLink::new(target, &address, &self.connector)));
        PeerClient::new(Arc::clone(link), self.install_timeout)
    }
}
