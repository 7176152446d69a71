//! Endpoints given by name: looked up at start and every 30 s after; the last good answer is kept.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use tokio::sync::mpsc;

use super::engine::Resolved;
use super::view::View;

const AGAIN: Duration = Duration::from_secs(30);
/// A lookup that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks up names once, and says which had no answer.
pub async fn resolve(authorities: &BTreeSet<Arc<str>>) -> Vec<Result<Resolved, Arc<str>>> {
    let mut results = Vec::new();
    for authority in authorities {
        results.push(look_up(authority).await.ok_or_else(|| authority.clone()));
    }
    results
}

/// Looks the names up again and again, and tells the engine what it finds. Ends with the engine.
pub async fn keep_resolving(view: Arc<ArcSwap<View>>, engine: mpsc::Sender<Resolved>) {
    while !engine.is_closed() {
        tokio::time::sleep(AGAIN).await;
        for result in resolve(&names(&view.load())).await {
            match result {
                Ok(resolved) => {
                    if engine.send(resolved).await.is_err() {
                        return;
                    }
                }
                Err(authority) => tracing::warn!(%authority, "an endpoint's name has no address now; keeping the last"),
            }
        }
    }
}

/// Of all endpoints that there are now, those given by name.
fn names(view: &View) -> BTreeSet<Arc<str>> {
    let versions = view.services.values().flat_map(|service| &service.versions);
    let endpoints = versions.flat_map(|version| &version.endpoints);
    endpoints.map(|endpoint| endpoint.authority.clone()).filter(|authority| is_name(authority)).collect()
}

fn is_name(authority: &str) -> bool {
    authority.parse::<SocketAddr>().is_err()
}

/// `None`: no answer, or an empty one.
async fn look_up(authority: &Arc<str>) -> Option<Resolved> {
    let addresses = match authority.parse::<SocketAddr>() {
        Ok(address) => vec![address],
        Err(_) => tokio::time::timeout(PATIENCE, lookup_host(authority.as_ref())).await.ok()?.ok()?.collect(),
    };
    (!addresses.is_empty()).then(|| Resolved { authority: authority.clone(), addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_resolve_to_themselves_and_names_to_addresses() {
        let authorities: BTreeSet<Arc<str>> =
            ["127.0.0.1:80", "localhost:81", "nowhere.invalid:82"].map(Arc::from).into();
        let results = resolve(&authorities).await;
        let first = Resolved { authority: "127.0.0.1:80".into(), addresses: vec!["127.0.0.1:80".parse().unwrap()] };
        assert_eq!(results[0], Ok(first));
        assert!(results[1].as_ref().is_ok_and(|resolved| resolved.addresses.iter().all(|a| a.port() == 81)));
        assert_eq!(results[2], Err("nowhere.invalid:82".into()));
    }
}
