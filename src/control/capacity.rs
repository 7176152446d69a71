//! Whether a version can carry what a new weight would give it, as far as the file and the last minute tell.

use crate::domain::names::VersionName;
use crate::domain::split::Weight;
use crate::domain::standing::Change;
use crate::domain::state::ServiceState;

/// Whether a version may be given more than it is declared to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overload {
    #[default]
    Refused,
    /// A person knows better.
    Accepted,
}

/// What a version would get, and what it can carry: requests per second, rounded up and down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{version}` at {weight} would get about {expected} requests per second (the service had {rate} in the last \
     minute), and its {endpoints} endpoints can carry {capacity}"
)]
pub struct Overloaded {
    pub version: VersionName,
    pub weight: Weight,
    pub rate: u64,
    pub expected: u64,
    pub endpoints: usize,
    pub capacity: u64,
    /// The highest weight that it can carry.
    pub fits: Weight,
}

/// What the changes raise must fit. Whatever lowers a weight does, and so does a version of unknown capacity. `rate`:
/// coin-drawn requests of the service per second; `endpoints`: how many of a version can take requests.
pub fn check(
    service: &ServiceState,
    changes: &[Change],
    rate: f64,
    endpoints: impl Fn(&VersionName) -> usize,
) -> Result<(), Overloaded> {
    for (version, weight) in changes.iter().filter_map(|change| raised(service, change)) {
        let Some(each) = service.definition.version(version).and_then(|version| version.capacity) else { continue };
        let endpoints = endpoints(version);
        let capacity = u64::from(each) * endpoints as u64;
        let expected = rate * weight.fraction();
        #[expect(clippy::cast_precision_loss, reason = "requests per second stay far below 2^52")]
        if expected > capacity as f64 {
            let (version, fits) = (version.clone(), fitting(capacity as f64 / rate));
            return Err(Overloaded {
                version,
                weight,
                rate: whole(rate.round()),
                expected: whole(expected.ceil()),
                endpoints,
                capacity,
                fits,
            });
        }
    }
    Ok(())
}

/// A version that gets more than it has, and how much.
fn raised<'c>(service: &ServiceState, change: &'c Change) -> Option<(&'c VersionName, Weight)> {
    match change {
        Change::WeightSet { version, from, to } if to > from => Some((version, *to)),
        Change::Promoted { version, .. } if service.standing.weight < Weight::FULL => Some((version, Weight::FULL)),
        _ => None,
    }
}

fn fitting(share: f64) -> Weight {
    let points = (share * f64::from(Weight::FULL.basis_points())).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 10,000 by then")]
    Weight::from_basis_points(points.clamp(0.0, 10_000.0) as u16).unwrap_or_default()
}

fn whole(number: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is not negative")]
    let whole = number.max(0.0) as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Admission;
    use crate::domain::judge::Policy;
    use crate::domain::names::ServiceName;
    use crate::domain::service::{Definition, Timeouts, VersionDefinition};
    use crate::domain::state::State;

    fn name(text: &str) -> VersionName {
        VersionName::new(text).unwrap()
    }

    fn percent(points: u16) -> Weight {
        Weight::from_basis_points(points * 100).unwrap()
    }

    fn shop(capacity: Option<u32>) -> State {
        let version = |text| VersionDefinition { name: name(text), endpoints: vec![], capacity };
        State::of([Definition {
            name: ServiceName::new("shop").unwrap(),
            routes: vec![],
            error_pages: crate::domain::error_pages::ErrorPages::default(),
            retries: crate::domain::retry::RetryPolicy::default(),
            versions: vec![version("v1"), version("v2")],
            stable: name("v1"),
            canary: Some(name("v2")),
            weight: percent(40),
            pins: vec![],
            policy: Policy::default(),
            sticky: None,
            timeouts: Timeouts::default(),
            admission: Admission::default(),
            health_check: None,
            balancing: crate::domain::balance::Balancing::default(),
        }])
    }

    fn set(from: u16, to: u16) -> Change {
        Change::WeightSet { version: name("v2"), from: percent(from), to: percent(to) }
    }

    fn checked(capacity: Option<u32>, change: Change, rate: f64) -> Result<(), Overloaded> {
        let state = shop(capacity);
        check(state.services().next().unwrap(), &[change], rate, |_| 2)
    }

    #[test]
    fn a_raise_beyond_what_the_endpoints_carry_is_refused_with_what_would_fit() {
        assert_eq!(checked(Some(200), set(40, 50), 800.0), Ok(()));
        let refused = checked(Some(200), set(40, 80), 800.0).unwrap_err();
        assert_eq!((refused.expected, refused.capacity, refused.fits), (640, 400, percent(50)));
        assert_eq!(
            refused.to_string(),
            "`v2` at 80% would get about 640 requests per second (the service had 800 in the last minute), and its 2 \
             endpoints can carry 400"
        );
    }

    #[test]
    fn lowering_is_never_refused_and_an_unknown_capacity_is_not_checked() {
        assert_eq!(checked(Some(1), set(40, 30), 1e6), Ok(()));
        assert_eq!(checked(None, set(40, 100), 1e6), Ok(()));
    }

    #[test]
    fn promoting_raises_to_everything() {
        let promoted = Change::Promoted { version: name("v2"), replaced: name("v1") };
        assert_eq!(checked(Some(200), promoted.clone(), 400.0), Ok(()));
        assert_eq!(checked(Some(200), promoted, 401.0).unwrap_err().fits, Weight::from_basis_points(9975).unwrap());
    }
}
