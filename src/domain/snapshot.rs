//! What the data plane needs to know, and nothing else: one consistent picture, swapped as a whole.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::admission::Gate;
use super::cap::Cap;
use super::check::HealthCheck;
use super::error_pages::ErrorPages;
use super::health::{Administrative, Operational};
use super::names::{EndpointId, Exposure, ServiceName, VersionId, VersionName};
use super::pool::{Endpoint, Member, Pool};
use super::retry::{Allowance, RetryPolicy};
use super::router::Router;
use super::service::{Target, Timeouts, VersionDefinition};
use super::split::{Pin, Split};
use super::state::{ServiceState, State};
use super::sticky::Sticky;
use super::time::micros;
use super::window::Generation;

/// A picture of all services. Two requests that read the same snapshot see the same routes and weights.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with every snapshot; workers report which one they route by.
    pub revision: u64,
    pub router: Arc<Router>,
    /// In the order of the router's indexes, which is that of their names.
    pub services: Box<[Arc<Service>]>,
    endpoints: u32,
    /// The state's routes that the router was made of.
    routes: u64,
}

/// One service as the data plane sees it.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub split: Split,
    pub versions: Box<[Version]>,
    pub timeouts: Timeouts,
    pub retries: RetryPolicy,
    pub error_pages: ErrorPages,
    pub health_check: Option<Arc<HealthCheck>>,
    /// `None` while no coin is tossed.
    pub exposure: Option<Exposure>,
    pub generation: Generation,
    /// Heads later than this (in microseconds) are over the service's latency limit.
    pub over_micros: Option<u64>,
    pub gate: Gate,
    /// Of the canary's requests per second; the same one in every snapshot that has it.
    pub cap: Option<Arc<Cap>>,
    stamp: u64,
}

#[derive(Debug)]
pub struct Version {
    pub id: VersionId,
    pub name: VersionName,
    pub pool: Pool,
    /// What extra attempts share, over all workers and snapshots.
    pub allowance: Arc<Allowance>,
}

impl Snapshot {
    /// Draws a new picture. Services that did not change, and endpoints that are still listed, are taken over from
    /// `previous`.
    #[must_use]
    pub fn of(state: &State, previous: &Snapshot) -> Snapshot {
        let mut endpoints = previous.endpoints;
        let before: BTreeMap<&ServiceName, &Arc<Service>> = previous.services.iter().map(|s| (&s.name, s)).collect();
        let services: Box<[Arc<Service>]> = state
            .services()
            .map(|service| match before.get(&service.definition.name) {
                Some(same) if same.stamp == service.stamp() => Arc::clone(same),
                before => Arc::new(Service::of(service, state, before.map(AsRef::as_ref), &mut endpoints)),
            })
            .collect();
        let (routes, same) = (state.routes(), state.routes() == previous.routes);
        let router = if same { previous.router.clone() } else { Arc::new(router(state)) };
        Snapshot { revision: previous.revision + 1, router, services, endpoints, routes }
    }

    /// Closes the endpoints that this snapshot gives nothing new any more, for those who still hold an older one; opens
    /// those that it does. To be done before it is published.
    pub fn close_endpoints(&self, previous: &Snapshot) {
        for service in self.services_but_those_of(previous) {
            service.members().for_each(|member| match member.administrative {
                Administrative::Ready => member.endpoint.open(),
                Administrative::Draining | Administrative::Maintenance => member.endpoint.close(self.revision),
            });
        }
        for before in previous.services_but_those_of(self) {
            let now = self.service(&before.name);
            let listed = |id| now.is_some_and(|now| now.members().any(|member| member.endpoint.id == id));
            let gone = before.members().filter(|member| !listed(member.endpoint.id));
            gone.for_each(|member| member.endpoint.close(self.revision));
        }
    }

    /// Services that the other snapshot does not have, or not so. Most are where they were.
    fn services_but_those_of<'a>(&'a self, other: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Service>> {
        let same = |index: usize, service: &Arc<Service>| {
            let there = other.services.get(index).filter(|there| there.name == service.name);
            there.or_else(|| other.service(&service.name)).is_some_and(|there| Arc::ptr_eq(there, service))
        };
        self.services
            .iter()
            .enumerate()
            .filter(move |(index, service)| !same(*index, service))
            .map(|(_, service)| service)
    }

    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        // In the order of their names, as the state has them.
        self.services.binary_search_by(|service| service.name.cmp(name)).ok().map(|index| &self.services[index])
    }
}

fn router(state: &State) -> Router {
    Router::of(state.services().enumerate().map(|(index, service)| (index, &service.definition.routes[..])))
}

impl Service {
    fn of(service: &ServiceState, state: &State, before: Option<&Service>, endpoints: &mut u32) -> Service {
        let definition = &service.definition;
        let versions = definition.versions.iter().filter_map(|version| {
            let id = service.id(&version.name)?;
            let known = before.and_then(|before| before.versions.iter().find(|v| v.id == id));
            let allowance = known.map(|known| known.allowance.clone()).unwrap_or_default();
            let pool = pool(version, service, state, known.map(|known| &known.pool), endpoints);
            Some(Version { id, name: version.name.clone(), pool, allowance })
        });
        let versions: Box<[Version]> = versions.collect();
        let split = split(service, &versions, before.and_then(|before| before.split.sticky.as_ref()));
        Service {
            name: definition.name.clone(),
            exposure: service.standing.exposure.filter(|_| split.canary.is_some()),
            split,
            versions,
            timeouts: definition.timeouts,
            retries: definition.retries.clone(),
            error_pages: definition.error_pages.clone(),
            health_check: definition.health_check.clone().map(Arc::new),
            generation: service.generation,
            over_micros: definition.policy.latency.map(|limit| micros(limit.above)),
            gate: Gate::of(&definition.admission, service.standing.paused, before.map(|before| &before.gate)),
            cap: cap(definition.policy.exposure.requests_per_second, before),
            stamp: service.stamp(),
        }
    }

    /// Whether an endpoint of a version is well, whatever a person wants of it.
    #[must_use]
    pub fn serves(&self, version: &VersionName, authority: &str) -> bool {
        let pool = self.versions.iter().find(|known| known.name == *version).map(|version| &version.pool);
        let well = |e: &Arc<Endpoint>| *e.authority == *authority && e.operational() == Operational::Healthy;
        pool.is_some_and(|pool| pool.endpoints().any(well))
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.versions.iter().flat_map(|version| version.pool.members.iter())
    }

    #[must_use]
    pub fn stable(&self) -> &Version {
        &self.versions[self.split.stable]
    }
}

fn cap(per_second: Option<NonZeroU32>, before: Option<&Service>) -> Option<Arc<Cap>> {
    let per_second = per_second?;
    let same = before.and_then(|before| before.cap.clone()).filter(|cap| cap.per_second() == per_second);
    Some(same.unwrap_or_else(|| Arc::new(Cap::new(per_second))))
}

/// The split with seals resolved: a pin to a sealed version leads to stable. So it is with a version that never was
/// healthy, or of which a person wants nothing: no coin is tossed for it, and nothing is held against it. What is
/// sticky is taken over from `before` while it is the same exposure's: it remembers which sessions were met.
fn split(service: &ServiceState, versions: &[Version], before: Option<&Arc<Sticky>>) -> Split {
    let (definition, standing) = (&service.definition, &service.standing);
    let index = |name: &VersionName| definition.versions.iter().position(|version| version.name == *name);
    let stable = index(&standing.stable).unwrap_or(0);
    let open =
        |name: &VersionName| index(name).filter(|at| standing.seal(name).is_none() && versions[*at].pool.is_open());
    let canary = standing.canary.as_ref().and_then(open);
    let pins = definition.pins.iter().map(|pin| {
        let version = match &pin.target {
            Target::Stable => None,
            Target::Canary => canary,
            Target::Version(name) => open(name),
        };
        Pin { matcher: pin.matcher.clone(), version: version.unwrap_or(stable) }
    });
    let sticky = definition.sticky.as_ref().map(|declared| {
        let same = before.filter(|before| before.is_of(declared, standing.exposure));
        same.cloned().unwrap_or_else(|| Arc::new(Sticky::of(&definition.name, declared, standing.exposure)))
    });
    Split { stable, canary, weight: standing.weight, pins: pins.collect(), sticky }
}

fn pool(
    version: &VersionDefinition,
    service: &ServiceState,
    state: &State,
    known: Option<&Pool>,
    endpoints: &mut u32,
) -> Pool {
    let listed = version
        .endpoints
        .iter()
        .flat_map(|listed| state.addresses(&listed.authority).iter().map(move |address| (listed, *address)));
    let members = listed.map(|(listed, address)| {
        let same = |e: &&Arc<Endpoint>| e.authority == listed.authority && e.address == address;
        let endpoint = known.and_then(|pool| pool.endpoints().find(same)).cloned().unwrap_or_else(|| {
            *endpoints += 1;
            let endpoint = Endpoint::new(EndpointId(*endpoints), listed.authority.clone(), address);
            let joins = known.is_some_and(|pool| !pool.members.is_empty());
            Arc::new(match &service.definition.health_check {
                Some(_) => endpoint.unproven(),
                None if joins => endpoint.added(),
                None => endpoint,
            })
        });
        let administrative = service.standing.amendments.state(&version.name, &listed.authority);
        Member { endpoint, weight: listed.weight, administrative }
    });
    let members: Vec<Member> = members.collect();
    let shared = known.map(|pool| pool.shared.clone()).unwrap_or_default();
    Pool::new(members, service.definition.balancing.clone(), version.name == service.standing.stable).sharing(shared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Admission;
    use crate::domain::authority::Authority;
    use crate::domain::balance::Balancing;
    use crate::domain::judge::Policy;
    use crate::domain::route::{HostPattern, Request, Route};
    use crate::domain::service::{Definition, PinDefinition};
    use crate::domain::split::{Matcher, Weight};
    use crate::domain::standing::Change;
    use crate::domain::state::Event;

    fn shop() -> Definition {
        let name = |text: &str| VersionName::new(text).unwrap();
        let version = |text: &str| VersionDefinition { name: name(text), endpoints: vec![text.into()], capacity: None };
        let matcher = Matcher::Query { name: "canary".into(), value: None };
        Definition {
            name: ServiceName::new("shop").unwrap(),
            routes: vec![Route::below(HostPattern::Any, "/").into()],
            error_pages: ErrorPages::default(),
            versions: vec![version("v1"), version("v2")],
            stable: name("v1"),
            canary: Some(name("v2")),
            weight: Weight::HALF,
            pins: vec![PinDefinition { matcher, target: Target::Canary }],
            policy: Policy::default(),
            sticky: None,
            timeouts: Timeouts::default(),
            retries: RetryPolicy::default(),
            admission: Admission::default(),
            health_check: None,
            balancing: Balancing::default(),
        }
    }

    fn state() -> State {
        let other = Definition { name: ServiceName::new("other").unwrap(), ..shop() };
        let mut state = State::of([shop(), other]);
        state.resolve(&"v1".into(), vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
        state.resolve(&"v2".into(), vec!["127.0.0.1:9".parse().unwrap()]);
        state
    }

    fn set(weight: Weight) -> Event {
        let version = VersionName::new("v2").unwrap();
        let change = Change::WeightSet { version, from: Weight::HALF, to: weight };
        Event { service: ServiceName::new("shop").unwrap(), change }
    }

    #[test]
    fn only_a_changed_service_is_drawn_anew() {
        let mut state = state();
        let before = Snapshot::of(&state, &Snapshot::default());
        state.apply(1, &set(Weight::ZERO));
        let after = Snapshot::of(&state, &before);
        assert!(Arc::ptr_eq(&before.services[0], &after.services[0]), "`other` is as it was");
        assert_eq!(after.services[1].split.weight, Weight::ZERO);
        assert_eq!(after.revision, before.revision + 1);
    }

    #[test]
    fn an_endpoint_outlives_the_snapshot_while_it_is_listed() {
        let mut state = state();
        let before = Snapshot::of(&state, &Snapshot::default());
        state.resolve(&"v1".into(), vec!["127.0.0.1:3".parse().unwrap(), "127.0.0.1:2".parse().unwrap()]);
        let after = Snapshot::of(&state, &before);
        let (old, new) = (&before.services[1].stable().pool.members, &after.services[1].stable().pool.members);
        assert!(Arc::ptr_eq(&old[1].endpoint, &new[0].endpoint));
        assert!(!old.iter().any(|m| m.endpoint.id == new[1].endpoint.id), "a new address gets a new serial");
    }

    #[test]
    fn a_pin_to_a_sealed_version_leads_to_stable() {
        let mut state = state();
        let chosen = |state: &State| {
            Snapshot::of(state, &Snapshot::default()).services[1]
                .split
                .choose(&Request::get("/?canary").facts(), 0)
                .version
        };
        assert_eq!(chosen(&state), 1);
        let version = VersionName::new("v2").unwrap();
        state.apply(1, &Event { change: Change::Aborted { version, from: Weight::HALF }, ..set(Weight::ZERO) });
        assert_eq!(chosen(&state), 0);
    }

    fn wanted(endpoint: &str, from: Administrative, to: Administrative) -> Event {
        let (version, endpoint) = (VersionName::new("v1").unwrap(), Authority::parse(endpoint).unwrap());
        Event {
            service: ServiceName::new("shop").unwrap(),
            change: Change::EndpointSet { version, endpoint, from, to },
        }
    }

    /// Two versions, of which each endpoint is an address.
    fn checked() -> State {
        let mut shop = Definition { health_check: Some(HealthCheck::default()), ..shop() };
        for (version, endpoints) in [(0, ["127.0.0.1:1", "127.0.0.1:2"].as_slice()), (1, &["127.0.0.1:3"])] {
            shop.versions[version].endpoints = endpoints.iter().map(|text| (*text).into()).collect();
        }
        let mut state = State::of([shop]);
        for text in ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"] {
            state.resolve(&text.into(), vec![text.parse().unwrap()]);
        }
        state
    }

    #[test]
    fn who_holds_an_older_snapshot_begins_nothing_at_an_endpoint_that_is_closed() {
        use crate::domain::pool::Ask;
        let mut state = state();
        state.resolve(&"v1".into(), vec!["127.0.0.1:1".parse().unwrap()]);
        let older = Snapshot::of(&state, &Snapshot::default());
        let only = older.services[1].stable().pool.members[0].endpoint.clone();
        let under_way = older.services[1].stable().pool.pick(&Ask::default()).unwrap();
        only.close(older.revision + 1);
        assert!(older.services[1].stable().pool.pick(&Ask::default()).is_err());
        assert!(!only.drained(older.revision), "not every worker knows");
        assert!(!only.drained(older.revision + 1), "something is under way");
        drop(under_way);
        assert!(only.drained(older.revision + 1));
    }

    #[test]
    fn a_snapshot_closes_what_is_not_wanted_or_not_listed_and_opens_it_again() {
        use Administrative::{Maintenance, Ready};
        let mut state = checked();
        let first = Snapshot::of(&state, &Snapshot::default());
        first.close_endpoints(&Snapshot::default());
        let endpoints: Vec<Arc<Endpoint>> = first.services[0].members().map(|m| m.endpoint.clone()).collect();
        let open = || endpoints.iter().map(|endpoint| endpoint.is_open()).collect::<Vec<_>>();
        assert_eq!(open(), [true, true, true]);
        state.apply(1, &wanted("127.0.0.1:1", Ready, Maintenance));
        let second = Snapshot::of(&state, &first);
        second.close_endpoints(&first);
        assert_eq!(open(), [false, true, true]);
        let gone = Change::VersionRemoved { version: VersionName::new("v2").unwrap() };
        state.apply(2, &Event { service: ServiceName::new("shop").unwrap(), change: gone });
        state.apply(3, &wanted("127.0.0.1:1", Maintenance, Ready));
        let third = Snapshot::of(&state, &second);
        third.close_endpoints(&second);
        assert_eq!(open(), [true, true, false]);
    }

    #[test]
    fn a_version_that_never_was_healthy_or_is_not_wanted_is_out_of_the_split() {
        let mut state = checked();
        let first = Snapshot::of(&state, &Snapshot::default());
        let canary = first.services[0].versions[1].pool.members[0].endpoint.clone();
        let out = |snapshot: &Snapshot| {
            let service = &snapshot.services[0];
            let pinned = service.split.choose(&Request::get("/?canary").facts(), 0).version;
            (service.split.canary, service.exposure.is_some(), pinned)
        };
        assert_eq!(out(&first), (None, false, 0), "no coin is tossed, and no request is evidence");
        canary.set_operational(Operational::Healthy, crate::domain::time::Moment(1));
        state.apply(1, &set(Weight::HALF));
        let second = Snapshot::of(&state, &first);
        assert_eq!(out(&second), (Some(1), true, 1));
        canary.set_operational(Operational::Unhealthy, crate::domain::time::Moment(2));
        state.apply(2, &set(Weight::FULL));
        assert_eq!(
            out(&Snapshot::of(&state, &second)),
            (Some(1), true, 1),
            "what it was once, it is blamed for losing"
        );
    }

    #[test]
    fn who_was_met_is_remembered_as_long_as_the_exposure_lasts() {
        let sticky = crate::domain::sticky::tests::stickiness(crate::domain::sticky::Key::ClientAddress);
        let mut state = State::of([Definition { sticky: Some(Arc::new(sticky)), ..shop() }]);
        let drawn = |state: &State, before: &Snapshot| Snapshot::of(state, before);
        let sticky = |snapshot: &Snapshot| snapshot.services[0].split.sticky.clone().unwrap();
        let first = drawn(&state, &Snapshot::default());
        state.apply(1, &set(Weight::FULL));
        let raised = drawn(&state, &first);
        assert!(Arc::ptr_eq(&sticky(&first), &sticky(&raised)));
        state.apply(2, &set(Weight::ZERO));
        state.apply(3, &set(Weight::HALF));
        assert!(!Arc::ptr_eq(&sticky(&raised), &sticky(&drawn(&state, &raised))), "another exposure, another salt");
    }

    #[test]
    fn raising_from_zero_begins_a_new_exposure() {
        let mut state = state();
        let exposure = |state: &State| state.service(&ServiceName::new("shop").unwrap()).unwrap().standing.exposure;
        let first = exposure(&state);
        state.apply(1, &set(Weight::FULL));
        assert_eq!(exposure(&state), first);
        state.apply(1, &set(Weight::ZERO));
        assert_eq!(exposure(&state), None);
        state.apply(1, &set(Weight::HALF));
        assert!(exposure(&state) > first);
    }
}
