//! Devices: list, add or replace, remove.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anemone_model::{Device, Name};
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Json, Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Api, ApiError, success};
use crate::state::command::Control;
use crate::state::inventory::{Assigned, bytes_of, parts};

/// Devices in one entry of the log.
const DEVICES_PER_COMMAND: usize = 1_000;
/// Their bytes, by estimate; far below the limit of a command.
const BYTES_PER_COMMAND: usize = 1 << 20;
/// Most bytes of one device, so that any number of them fits an agent's assignment.
const DEVICE_BYTES_MAX: usize = 16 << 10;
/// Most bytes of one request: 10,000 devices with much metadata.
pub(super) const REQUEST_BYTES_MAX: usize = 32 << 20;

/// `GET /api/v1/devices`: all devices with who polls them; communities are never shown.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Response {
    success(api.state.with_control(|control| control.inventory.iter().map(shown).collect::<Vec<Value>>()))
}

fn shown(assigned: &Assigned) -> Value {
    let device = &assigned.device;
    json!({
        "name": device.name,
        "pop": device.pop,
        "address": device.address,
        "interval": device.interval,
        "metadata": device.metadata,
        "agent": assigned.agent.as_ref().map(|a| a.name.clone()),
        "epoch": assigned.epoch,
    })
}

/// `POST /api/v1/devices`: a JSON array of devices, added or replaced by name, all or (on bad input) none.
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Result<Json<Vec<Device>>, JsonRejection>,
) -> Result<Response, ApiError> {
    api.authorise(peer, &headers)?;
    let Json(devices) = body.map_err(|rejection| ApiError::bad_data(rejection.body_text()))?;
    let mut names = BTreeSet::new();
    if let Some(twice) = devices.iter().find(|device| !names.insert(&device.name)) {
        return Err(ApiError::bad_data(format!("device {} is given twice", twice.name)));
    }
    for (at, device) in devices.iter().enumerate() {
        check(device).map_err(|why| ApiError::bad_data(format!("device {at} ({}): {why}", device.name)))?;
    }
    let mut changed = 0;
    for part in parts(&devices, DEVICES_PER_COMMAND, BYTES_PER_COMMAND, bytes_of) {
        changed += api.change("/api/v1/devices", &Control::PutDevices(part.to_vec())).await?;
    }
    Ok(success(json!({ "received": devices.len(), "changed": changed })))
}

fn check(device: &Device) -> Result<(), String> {
    let bytes = bytes_of(device);
    if bytes > DEVICE_BYTES_MAX {
        return Err(format!("address, community and metadata take {bytes} bytes, the limit is {DEVICE_BYTES_MAX}"));
    }
    let (host, port) = device.address.rsplit_once(':').ok_or_else(|| format!("address {:?} is not host:port", device.address))?;
    if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
        return Err(format!("address {:?} has no host, or an IPv6 address without brackets", device.address));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(format!("address {:?} has no port from 1 to 65535", device.address)),
    }
}

/// `DELETE /api/v1/devices/{name}`.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    api.authorise(peer, &headers)?;
    let name: Name = name.parse().map_err(|e| ApiError::bad_data(format!("{e}")))?;
    match api.change(&format!("/api/v1/devices/{name}"), &Control::RemoveDevices(vec![name.clone()])).await? {
        0 => Err(ApiError::not_found(format!("there is no device {name}"))),
        removed => Ok(success(json!({ "removed": removed }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let device = |address: &str| Device {
            name: "sw1".parse().unwrap(),
            pop: "ams1".parse().unwrap(),
            address: address.into(),
            community: anemone_model::Community::new("public"),
            interval: anemone_model::PollInterval::default(),
            metadata: std::collections::BTreeMap::new(),
        };
        for good in ["192.0.2.1:161", "sw1.example.net:161", "[2001:db8::1]:161"] {
            assert_eq!(check(&device(good)), Ok(()));
        }
        for bad in ["192.0.2.1", ":161", "2001:db8::1:161", "sw1:0", "sw1:70000", "sw1:snmp"] {
            assert!(check(&device(bad)).is_err(), "{bad}");
        }
        let mut heavy = device("sw1:161");
        heavy.metadata.insert("rack".into(), "x".repeat(DEVICE_BYTES_MAX));
        assert!(check(&heavy).unwrap_err().contains("the limit is 16384"));
    }
}
