//! What persons changed of a service's versions and endpoints at run time, laid over what the file declares.
//!
//! The file says what there is; these say what is different for now: endpoints that were added or removed, what a
//! person wants of one (administrative states), whole versions. A file that is read again keeps them, and those that
//! it has made true by itself, or that lost their meaning, are settled: forgotten, by an entry in the journal.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::health::Administrative;
use super::names::VersionName;
use super::service::{Definition, EndpointDefinition, VersionDefinition};
use super::split::Role;
use super::standing::{Change, Standing};

/// Versions of one service, and endpoints of one version, at most: a loop in a script should not fill the journal.
pub const MOST_VERSIONS: usize = 256;
pub const MOST_ENDPOINTS: usize = 1_024;

/// Of one service, by version.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amendments(BTreeMap<VersionName, Amendment>);

/// Of one version.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Amendment {
    /// The file did not declare the version.
    #[serde(skip_serializing_if = "is_false")]
    added: bool,
    /// The file declares the version, and yet it is gone.
    #[serde(skip_serializing_if = "is_false")]
    removed: bool,
    /// Endpoints that were added, or given another weight.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: BTreeMap<Authority, u32>,
    /// Endpoints of the file that are gone.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<Authority>,
    /// What a person wants of an endpoint, if not that it takes requests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    states: BTreeMap<Authority, Administrative>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Who listed an endpoint or a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    #[default]
    File,
    Runtime,
}

/// An endpoint and its weight, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub endpoint: Authority,
    pub weight: u32,
}

/// What a person may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    State { version: VersionName, endpoint: Authority, to: Administrative, force: bool },
    PutEndpoint { version: VersionName, endpoint: Authority, weight: u32 },
    RemoveEndpoint { version: VersionName, endpoint: Authority, force: bool },
    PutVersion { version: VersionName, endpoints: Vec<Listed> },
    RemoveVersion { version: VersionName },
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no version `{0}`")]
    NoVersion(VersionName),
    #[error("version `{0}` has no endpoint `{1}`")]
    NoEndpoint(VersionName, Authority),
    #[error("`{1}` is the last endpoint of the stable version `{0}` that serves")]
    LastOfStable(VersionName, Authority),
    #[error("version `{0}` is the {role} one at present", role = .1.as_str())]
    InUse(VersionName, Role),
    #[error("version `{0}` is there already, with other endpoints")]
    Exists(VersionName),
    #[error("version `{0}` lists that endpoint already, as `{1}`")]
    Listed(VersionName, Authority),
    #[error("that would be more than {most} {what}")]
    TooMany { most: usize, what: &'static str },
}

/// What a file that is read again has made true, or has taken the meaning of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Settled {
    /// The file declares the version that was added.
    Version { version: VersionName },
    /// The file no longer has the version, or gives it a role again.
    Gone { version: VersionName },
    /// The file lists the endpoint as it was added.
    Endpoint { version: VersionName, endpoint: Authority },
    /// The file no longer lists the endpoint that was removed.
    Removal { version: VersionName, endpoint: Authority },
    /// Nobody lists the endpoint any more that a person wanted something of.
    State { version: VersionName, endpoint: Authority },
}

impl Amendments {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a person wants of an endpoint.
    #[must_use]
    pub fn state(&self, version: &VersionName, endpoint: &str) -> Administrative {
        let states = self.0.get(version).map(|amendment| &amendment.states);
        let state = states.and_then(|states| states.iter().find(|(known, _)| known.as_str() == endpoint));
        state.map(|(_, state)| *state).unwrap_or_default()
    }

    /// The service as it is for now.
    #[must_use]
    pub fn over(&self, file: &Definition) -> Definition {
        let mut definition = file.clone();
        definition.versions.retain(|version| self.0.get(&version.name).is_none_or(|amendment| !amendment.removed));
        for version in &mut definition.versions {
            if let Some(amendment) = self.0.get(&version.name) {
                amendment.amend(version);
            }
        }
        let added = self.0.iter().filter(|(name, amendment)| amendment.added && file.version(name).is_none());
        definition.versions.extend(added.map(|(name, amendment)| {
            let mut version = VersionDefinition { name: name.clone(), endpoints: Vec::new(), capacity: None };
            amendment.amend(&mut version);
            version
        }));
        definition
    }

    /// Decides. Changes are to be applied in order; none means that everything already is as asked for. `now` is `file`
    /// as amended; `serves`: whether an endpoint works at present.
    pub fn handle(
        &self,
        standing: &Standing,
        file: &Definition,
        now: &Definition,
        serves: impl Fn(&VersionName, &str) -> bool,
        request: Request,
    ) -> Result<Vec<Change>, Refusal> {
        match request {
            Request::State { version, endpoint, to, force } => {
                listed(now, &version, &endpoint)?.ok_or_else(|| no_endpoint(&version, &endpoint))?;
                let from = self.state(&version, endpoint.as_str());
                if from == to {
                    return Ok(vec![]);
                }
                if to != Administrative::Ready && !force {
                    self.keeps_stable(standing, now, serves, &version, &endpoint)?;
                }
                Ok(vec![Change::EndpointSet { version, endpoint, from, to }])
            }
            Request::PutEndpoint { version, endpoint, weight } => {
                match listed(now, &version, &endpoint)? {
                    Some(listed) if listed.weight == weight => return Ok(vec![]),
                    Some(_) => {}
                    None => is_new(now, &version, &endpoint)?,
                }
                Ok(vec![Change::EndpointPut { version, endpoint, weight }])
            }
            Request::RemoveEndpoint { version, endpoint, force } => {
                if listed(now, &version, &endpoint)?.is_none() {
                    return Ok(vec![]);
                }
                if !force {
                    self.keeps_stable(standing, now, serves, &version, &endpoint)?;
                }
                Ok(vec![Change::EndpointRemoved { version, endpoint }])
            }
            Request::PutVersion { version, endpoints } => put_version(file, now, version, endpoints),
            Request::RemoveVersion { version } => match standing.role(&version) {
                _ if now.version(&version).is_none() => Ok(vec![]),
                Some(Role::Stable) => Err(Refusal::InUse(version, Role::Stable)),
                Some(Role::Canary) if !standing.weight.is_zero() => Err(Refusal::InUse(version, Role::Canary)),
                Some(Role::Canary) | None => Ok(vec![Change::VersionRemoved { version }]),
            },
        }
    }

    /// Without this endpoint, stable must not be left with none that serves, if it has one now.
    fn keeps_stable(
        &self,
        standing: &Standing,
        now: &Definition,
        serves: impl Fn(&VersionName, &str) -> bool,
        version: &VersionName,
        endpoint: &Authority,
    ) -> Result<(), Refusal> {
        let Some(stable) = now.version(version).filter(|_| standing.stable == *version) else { return Ok(()) };
        let ready = |listed: &&EndpointDefinition| self.state(version, &listed.authority) == Administrative::Ready;
        let is_this = |listed: &EndpointDefinition| *listed.authority == *endpoint.text;
        let all: Vec<&EndpointDefinition> = stable.endpoints.iter().filter(ready).collect();
        if !all.iter().any(|listed| is_this(listed)) {
            return Ok(()); // it takes nothing as it is
        }
        let serving = all.iter().filter(|listed| serves(version, &listed.authority)).count();
        let others = all.iter().filter(|listed| !is_this(listed) && serves(version, &listed.authority)).count();
        let last = if serving == 0 { all.len() == 1 } else { others == 0 };
        if last { Err(Refusal::LastOfStable(version.clone(), endpoint.clone())) } else { Ok(()) }
    }

    /// Makes a change, if it is one of these.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::EndpointSet { version, endpoint, to, .. } => {
                let states = &mut self.of(version).states;
                match to {
                    Administrative::Ready => states.remove(endpoint),
                    wanted => states.insert(endpoint.clone(), *wanted),
                };
            }
            Change::EndpointPut { version, endpoint, weight } => {
                let amendment = self.of(version);
                amendment.without.remove(endpoint);
                amendment.endpoints.insert(endpoint.clone(), *weight);
            }
            Change::EndpointRemoved { version, endpoint } => {
                let amendment = self.of(version);
                amendment.endpoints.remove(endpoint);
                amendment.states.remove(endpoint);
                amendment.without.insert(endpoint.clone());
            }
            Change::VersionAdded { version, endpoints } => {
                let endpoints = endpoints.iter().map(|listed| (listed.endpoint.clone(), listed.weight)).collect();
                self.0.insert(version.clone(), Amendment { added: true, endpoints, ..Amendment::default() });
            }
            Change::VersionRemoved { version } => {
                self.0.insert(version.clone(), Amendment { removed: true, ..Amendment::default() });
            }
            Change::AmendmentsSettled { settled } => settled.iter().for_each(|settled| self.settle(settled)),
            _ => {}
        }
        self.0.retain(|_, amendment| *amendment != Amendment::default());
    }

    fn of(&mut self, version: &VersionName) -> &mut Amendment {
        self.0.entry(version.clone()).or_default()
    }

    fn settle(&mut self, settled: &Settled) {
        match settled {
            Settled::Version { version } => self.of(version).added = false,
            Settled::Gone { version } => self.0.remove(version).map_or((), drop),
            Settled::Endpoint { version, endpoint } => self.of(version).endpoints.remove(endpoint).map_or((), drop),
            Settled::Removal { version, endpoint } => drop(self.of(version).without.remove(endpoint)),
            Settled::State { version, endpoint } => self.of(version).states.remove(endpoint).map_or((), drop),
        }
    }

    /// What a file has made true by itself, or has taken the meaning of. `named`: versions that it newly gives a role.
    #[must_use]
    pub fn settled_by(&self, file: &Definition, named: &[&VersionName]) -> Vec<Settled> {
        let of = |(version, amendment): (&VersionName, &Amendment)| amendment.settled_by(version, file, named);
        self.0.iter().flat_map(of).collect()
    }

    /// Endpoints of the file that are gone for now.
    pub fn without(&self, version: &VersionName) -> impl Iterator<Item = &Authority> {
        self.0.get(version).into_iter().flat_map(|amendment| &amendment.without)
    }
}

impl Amendment {
    fn amend(&self, version: &mut VersionDefinition) {
        version.endpoints.retain(|listed| !self.without.iter().any(|gone| *gone.text == *listed.authority));
        for (endpoint, weight) in &self.endpoints {
            if let Some(listed) = version.endpoints.iter_mut().find(|listed| listed.authority == endpoint.text) {
                listed.weight = *weight;
            } else {
                version.endpoints.push(EndpointDefinition { authority: endpoint.text.clone(), weight: *weight });
            }
        }
    }

    fn settled_by(&self, version: &VersionName, file: &Definition, named: &[&VersionName]) -> Vec<Settled> {
        let declared = file.version(version);
        let gone = if self.removed {
            declared.is_none() || named.contains(&version)
        } else {
            declared.is_none() && !self.added
        };
        if gone {
            return vec![Settled::Gone { version: version.clone() }];
        }
        let listed = |endpoint: &Authority| {
            declared.and_then(|version| version.endpoints.iter().find(|listed| listed.authority == endpoint.text))
        };
        let (version, mut settled) = (version.clone(), Vec::new());
        if self.added && declared.is_some() {
            settled.push(Settled::Version { version: version.clone() });
        }
        for (endpoint, weight) in &self.endpoints {
            if listed(endpoint).is_some_and(|listed| listed.weight == *weight) {
                settled.push(Settled::Endpoint { version: version.clone(), endpoint: endpoint.clone() });
            }
        }
        for endpoint in self.without.iter().filter(|endpoint| listed(endpoint).is_none()) {
            settled.push(Settled::Removal { version: version.clone(), endpoint: endpoint.clone() });
        }
        for endpoint in self.states.keys() {
            if listed(endpoint).is_none() && !self.endpoints.contains_key(endpoint) {
                settled.push(Settled::State { version: version.clone(), endpoint: endpoint.clone() });
            }
        }
        settled
    }
}

fn no_endpoint(version: &VersionName, endpoint: &Authority) -> Refusal {
    Refusal::NoEndpoint(version.clone(), endpoint.clone())
}

fn listed<'a>(
    now: &'a Definition,
    version: &VersionName,
    endpoint: &Authority,
) -> Result<Option<&'a EndpointDefinition>, Refusal> {
    let version = now.version(version).ok_or_else(|| Refusal::NoVersion(version.clone()))?;
    Ok(version.endpoints.iter().find(|listed| listed.authority == endpoint.text))
}

/// Under no other spelling either.
fn is_new(now: &Definition, version: &VersionName, endpoint: &Authority) -> Result<(), Refusal> {
    let endpoints = now.version(version).map_or(&[][..], |version| &version.endpoints);
    if endpoints.len() >= MOST_ENDPOINTS {
        return Err(Refusal::TooMany { most: MOST_ENDPOINTS, what: "endpoints" });
    }
    let spelt = endpoints.iter().filter_map(|listed| Authority::parse(&listed.authority).ok());
    match spelt.into_iter().find(|known| known.is(endpoint)) {
        Some(known) => Err(Refusal::Listed(version.clone(), known)),
        None => Ok(()),
    }
}

/// What the file lists of a version that was removed does not come back with it.
fn put_version(
    file: &Definition,
    now: &Definition,
    version: VersionName,
    endpoints: Vec<Listed>,
) -> Result<Vec<Change>, Refusal> {
    let same = |known: &EndpointDefinition| {
        endpoints.iter().any(|listed| listed.endpoint.text == known.authority && listed.weight == known.weight)
    };
    match now.version(&version) {
        Some(known) if known.endpoints.len() == endpoints.len() && known.endpoints.iter().all(same) => Ok(vec![]),
        Some(_) => Err(Refusal::Exists(version)),
        None if now.versions.len() >= MOST_VERSIONS => Err(Refusal::TooMany { most: MOST_VERSIONS, what: "versions" }),
        None if endpoints.len() > MOST_ENDPOINTS => Err(Refusal::TooMany { most: MOST_ENDPOINTS, what: "endpoints" }),
        None => {
            let declared = file.version(&version).into_iter().flat_map(|version| &version.endpoints);
            let unlisted = declared.filter(|known| !endpoints.iter().any(|e| e.endpoint.text == known.authority));
            let unlisted = unlisted.filter_map(|known| Authority::parse(&known.authority).ok());
            let removed = unlisted.map(|endpoint| Change::EndpointRemoved { version: version.clone(), endpoint });
            let removed: Vec<Change> = removed.collect();
            Ok(std::iter::once(Change::VersionAdded { version, endpoints }).chain(removed).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::balance::Balancing;
    use crate::domain::error_pages::ErrorPages;
    use crate::domain::judge::Policy;
    use crate::domain::names::{Exposure, ServiceName};
    use crate::domain::retry::RetryPolicy;
    use crate::domain::service::Timeouts;
    use crate::domain::split::Weight;
    use crate::domain::standing::Declared;

    fn name(text: &str) -> VersionName {
        VersionName::new(text).unwrap()
    }

    fn at(port: u16) -> Authority {
        Authority::parse(&format!("127.0.0.1:{port}")).unwrap()
    }

    /// Versions and the ports of their endpoints.
    fn file(versions: &[(&str, &[u16])]) -> Definition {
        let listed = |port: &u16| EndpointDefinition::from(at(*port).text);
        let version = |(version, ports): &(&str, &[u16])| VersionDefinition {
            name: name(version),
            endpoints: ports.iter().map(listed).collect(),
            capacity: None,
        };
        Definition {
            name: ServiceName::new("shop").unwrap(),
            routes: vec![],
            versions: versions.iter().map(version).collect(),
            stable: name("v1"),
            canary: Some(name("v2")),
            weight: Weight::HALF,
            pins: vec![],
            policy: Policy::default(),
            sticky: None,
            timeouts: Timeouts::default(),
            retries: RetryPolicy::default(),
            error_pages: ErrorPages::default(),
            admission: crate::domain::admission::Admission::default(),
            health_check: None,
            balancing: Balancing::default(),
        }
    }

    fn shop() -> (Standing, Definition) {
        let file = file(&[("v1", &[1, 2]), ("v2", &[3])]);
        let declared = Declared { stable: name("v1"), canary: Some(name("v2")), weight: Weight::HALF };
        (Standing::new(declared, Exposure(1)), file)
    }

    /// Asks, and makes what is answered true.
    fn ask(
        standing: &mut Standing,
        file: &Definition,
        well: impl Fn(u16) -> bool,
        request: Request,
    ) -> Result<usize, Refusal> {
        let serves = |_: &VersionName, endpoint: &str| well(Authority::parse(endpoint).unwrap().port);
        let now = standing.amendments.over(file);
        let changes = standing.amendments.handle(standing, file, &now, serves, request)?;
        for change in &changes {
            standing.apply(change, Exposure(2));
        }
        Ok(changes.len())
    }

    fn state(version: &str, port: u16, to: Administrative) -> Request {
        Request::State { version: name(version), endpoint: at(port), to, force: false }
    }

    fn last() -> Refusal {
        Refusal::LastOfStable(name("v1"), at(2))
    }

    #[test]
    fn stable_keeps_an_endpoint_that_serves_unless_forced() {
        use Administrative::{Draining, Maintenance, Ready};
        let (mut standing, file) = shop();
        assert_eq!(ask(&mut standing, &file, |_| true, state("v1", 1, Maintenance)), Ok(1));
        assert_eq!(ask(&mut standing, &file, |_| true, state("v1", 2, Draining)), Err(last()));
        let remove = Request::RemoveEndpoint { version: name("v1"), endpoint: at(2), force: false };
        assert_eq!(ask(&mut standing, &file, |_| true, remove), Err(last()));
        // The other one is ready and does not work: it is no help.
        assert_eq!(ask(&mut standing, &file, |_| true, state("v1", 1, Ready)), Ok(1));
        assert_eq!(ask(&mut standing, &file, |port| port == 2, state("v1", 2, Draining)), Err(last()));
        assert_eq!(ask(&mut standing, &file, |port| port == 2, state("v1", 1, Draining)), Ok(1));
        let forced = Request::State { version: name("v1"), endpoint: at(2), to: Draining, force: true };
        assert_eq!(ask(&mut standing, &file, |_| true, forced), Ok(1));
        assert_eq!(
            ask(&mut standing, &file, |_| true, state("v2", 3, Draining)),
            Ok(1),
            "the canary may lose its last"
        );
    }

    #[test]
    fn a_version_with_traffic_is_not_removed() {
        let (mut standing, file) = shop();
        let remove = |version: &str| Request::RemoveVersion { version: name(version) };
        let in_use = |version: &str, role| Err(Refusal::InUse(name(version), role));
        assert_eq!(ask(&mut standing, &file, |_| true, remove("v1")), in_use("v1", Role::Stable));
        assert_eq!(ask(&mut standing, &file, |_| true, remove("v2")), in_use("v2", Role::Canary));
        assert_eq!(ask(&mut standing, &file, |_| true, remove("v9")), Ok(0));
        let zero = Change::WeightSet { version: name("v2"), from: Weight::HALF, to: Weight::ZERO };
        standing.apply(&zero, Exposure(2));
        assert_eq!(ask(&mut standing, &file, |_| true, remove("v2")), Ok(1));
        assert_eq!((standing.canary.clone(), standing.amendments.over(&file).versions.len()), (None, 1));
        let put = Request::PutVersion { version: name("v2"), endpoints: vec![Listed { endpoint: at(7), weight: 1 }] };
        assert_eq!(ask(&mut standing, &file, |_| true, put.clone()), Ok(2), "it may come back, with other endpoints");
        assert_eq!(ask(&mut standing, &file, |_| true, put), Ok(0));
    }

    #[test]
    fn an_endpoint_is_listed_once_however_it_is_spelled() {
        let (mut standing, file) = shop();
        let put = |text: &str| Request::PutEndpoint {
            version: name("v2"),
            endpoint: Authority::parse(text).unwrap(),
            weight: 1,
        };
        assert_eq!(ask(&mut standing, &file, |_| true, put("web:1")), Ok(1));
        let twin = Refusal::Listed(name("v2"), Authority::parse("web:1").unwrap());
        assert_eq!(ask(&mut standing, &file, |_| true, put("WEB.:1")), Err(twin));
    }

    #[test]
    fn a_file_that_names_a_removed_version_in_a_role_has_it_back() {
        let (mut standing, shop) = shop();
        standing.apply(&Change::VersionRemoved { version: name("v2") }, Exposure(2));
        let settled = standing.amendments.settled_by(&shop, &[&name("v2")]);
        assert_eq!(settled, [Settled::Gone { version: name("v2") }]);
        assert_eq!(standing.amendments.settled_by(&shop, &[]), []);
        assert_eq!(standing.amendments.settled_by(&file(&[("v1", &[1])]), &[]), settled);
    }

    /// As it was written before there were amendments, and is still written without any.
    #[test]
    fn a_standing_of_an_earlier_release_reads_and_is_written_as_before() {
        let text = r#"{"declared":{"stable":"v1","canary":"v2","weight":"10%"},"stable":"v1","canary":"v2","weight":"10%",
            "exposure":1,"seals":{"v3":{"by":"person"}},"probe":null,"hold":null,"would_roll_back":null,"trials":2}"#;
        let standing: Standing = serde_json::from_str(text).unwrap();
        assert!(standing.amendments.is_empty());
        let (was, is): (serde_json::Value, _) = (serde_json::from_str(text).unwrap(), serde_json::to_value(&standing));
        assert_eq!(is.unwrap(), was);
    }

    fn request() -> impl Strategy<Value = Request> {
        use Administrative::{Draining, Maintenance, Ready};
        let version = || prop::sample::select(vec!["v1", "v2", "v3"]).prop_map(name);
        let endpoint = || (1u16..7).prop_map(at);
        let to = prop::sample::select(vec![Ready, Draining, Maintenance]);
        prop_oneof![
            4 => (version(), endpoint(), to, any::<bool>())
                .prop_map(|(version, endpoint, to, force)| Request::State { version, endpoint, to, force }),
            3 => (version(), endpoint(), 1u32..4)
                .prop_map(|(version, endpoint, weight)| Request::PutEndpoint { version, endpoint, weight }),
            3 => (version(), endpoint(), any::<bool>())
                .prop_map(|(version, endpoint, force)| Request::RemoveEndpoint { version, endpoint, force }),
            1 => (version(), endpoint()).prop_map(|(version, endpoint)| Request::PutVersion {
                version,
                endpoints: vec![Listed { endpoint, weight: 1 }]
            }),
            1 => version().prop_map(|version| Request::RemoveVersion { version }),
        ]
    }

    fn is_forced(request: &Request) -> bool {
        matches!(request, Request::State { force: true, .. } | Request::RemoveEndpoint { force: true, .. })
    }

    fn any_file() -> impl Strategy<Value = Definition> {
        let ports =
            || prop::collection::btree_set(1u16..7, 1..4).prop_map(|ports| ports.into_iter().collect::<Vec<_>>());
        (ports(), prop::option::of(ports()), prop::option::of(ports())).prop_map(|(one, two, three)| {
            let mut versions: Vec<(&str, &[u16])> = vec![("v1", &one)];
            versions.extend(two.as_ref().map(|ports| ("v2", ports.as_slice())));
            versions.extend(three.as_ref().map(|ports| ("v3", ports.as_slice())));
            file(&versions)
        })
    }

    proptest! {
        #[test]
        fn what_is_asked_for_twice_is_done_once(requests in prop::collection::vec(request(), 1..20), sick in 0u16..7) {
            let (mut standing, file) = shop();
            standing.apply(&Change::VersionRemoved { version: name("v2") }, Exposure(2));
            for request in requests {
                if ask(&mut standing, &file, |port| port != sick, request.clone()).is_ok() {
                    prop_assert_eq!(ask(&mut standing, &file, |port| port != sick, request), Ok(0));
                }
            }
        }

        #[test]
        fn nobody_leaves_stable_without_an_endpoint_that_serves_but_by_force(
            requests in prop::collection::vec(request(), 1..30),
            sick in 0u16..7,
        ) {
            let (mut standing, file) = shop();
            for request in requests.into_iter().filter(|request| !is_forced(request)) {
                let _answer = ask(&mut standing, &file, |port| port != sick, request);
                let now = standing.amendments.over(&file);
                let stable = now.version(&standing.stable).unwrap();
                let serves = |listed: &EndpointDefinition| {
                    let port = Authority::parse(&listed.authority).unwrap().port;
                    port != sick && standing.amendments.state(&stable.name, &listed.authority) == Administrative::Ready
                };
                prop_assert!(stable.endpoints.iter().any(serves));
            }
        }

        /// What a file settles is what it says by itself: forgetting it changes nothing. And it is settled once.
        #[test]
        fn what_is_settled_makes_no_difference(
            requests in prop::collection::vec(request(), 0..20),
            after in any_file(),
        ) {
            let (mut standing, before) = shop();
            for request in requests {
                let _answer = ask(&mut standing, &before, |_| true, request);
            }
            let amended = standing.amendments.over(&after);
            let settled = standing.amendments.settled_by(&after, &[]);
            standing.apply(&Change::AmendmentsSettled { settled }, Exposure(2));
            prop_assert_eq!(standing.amendments.over(&after), amended);
            prop_assert_eq!(standing.amendments.settled_by(&after, &[]), vec![]);
        }

        #[test]
        fn what_is_kept_reads_back(requests in prop::collection::vec(request(), 0..20)) {
            let (mut standing, file) = shop();
            for request in requests {
                let _answer = ask(&mut standing, &file, |_| true, request);
            }
            let text = serde_json::to_string(&standing).unwrap();
            prop_assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing, "{}", text);
        }
    }
}
