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
            let mut version = VersionDefinition { name: name.clone(), endpoints: Vec::new() };
            amendment.amend(&mut version);
            version
        }));
        definition
    }

    /// Decides. Changes are to be applied in order; none means that everything already is as asked for. `serves`: whether
    /// an endpoint works at present.
    pub fn handle(
        &self,
        standing: &Standing,
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
            Request::PutVersion { version, endpoints } => put_version(now, version, endpoints),
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
            match version.endpoints.iter_mut().find(|listed| listed.authority == endpoint.text) {
                Some(listed) => listed.weight = *weight,
                None => {
                    version.endpoints.push(EndpointDefinition { authority: endpoint.text.clone(), weight: *weight })
                }
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

fn put_version(now: &Definition, version: VersionName, endpoints: Vec<Listed>) -> Result<Vec<Change>, Refusal> {
    let same = |known: &EndpointDefinition| {
        endpoints.iter().any(|listed| listed.endpoint.text == known.authority && listed.weight == known.weight)
    };
    match now.version(&version) {
        Some(known) if known.endpoints.len() == endpoints.len() && known.endpoints.iter().all(same) => Ok(vec![]),
        Some(_) => Err(Refusal::Exists(version)),
        None if now.versions.len() >= MOST_VERSIONS => Err(Refusal::TooMany { most: MOST_VERSIONS, what: "versions" }),
        None if endpoints.len() > MOST_ENDPOINTS => Err(Refusal::TooMany { most: MOST_ENDPOINTS, what: "endpoints" }),
        None => Ok(vec![Change::VersionAdded { version, endpoints }]),
    }
}
