//! Who is picked: shares, weights, who is left out, who is full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32 as Peak;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::domain::breaker::Limits;
use crate::domain::ejection::{Ejection, sweep};
use crate::domain::route::Request;
use crate::domain::split::Weight;

const NOW: Moment = Moment(1_000_000_000);

fn member(index: u16, weight: u32) -> Member {
    let address = SocketAddr::from(([10, 0, 0, 1], 1_000 + index));
    let endpoint = Endpoint::new(EndpointId(index.into()), address.to_string().into(), address);
    Member { weight, ..Member::of(Arc::new(endpoint)) }
}

fn weighted(weights: &[u32], balancing: Balancing) -> Pool {
    Pool::new(weights.iter().zip(0..).map(|(weight, index)| member(index, *weight)), balancing, true)
}

fn equal(n: u16) -> Pool {
    Pool::new((0..n).map(|index| member(index, 1)), Balancing::default(), true)
}

fn by(balance: Balance) -> Balancing {
    Balancing { balance, ..Balancing::default() }
}

fn every_way() -> [Balance; 4] {
    [Balance::PowerOfTwo, Balance::RoundRobin, Balance::LeastConnections, Balance::ClientAddressHash]
}

fn any_way() -> impl Strategy<Value = Balance> {
    prop::sample::select(every_way().to_vec())
}

fn ask(draw: u64) -> Ask<'static> {
    Ask { draw, key: Some(draw.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15)), now: NOW, tried: &[] }
}

/// Picks of requests that end at once, by endpoint.
fn shares(pool: &Pool, picks: u32, now: Moment, random: &mut fastrand::Rng) -> BTreeMap<u32, f64> {
    let mut counts: BTreeMap<u32, f64> = pool.endpoints().map(|endpoint| (endpoint.id.0, 0.0)).collect();
    for _ in 0..picks {
        let picked = pool.pick(&Ask { now, ..ask(random.u64(..)) }).unwrap();
        *counts.get_mut(&picked.endpoint().id.0).unwrap() += 1.0 / f64::from(picks);
    }
    counts
}

fn unhealthy(pool: &Pool, indexes: impl IntoIterator<Item = usize>) {
    for index in indexes {
        pool.members[index].endpoint.set_operational(Operational::Unhealthy, NOW);
    }
}

#[test]
fn an_attempt_counts_itself_out() {
    let pool = equal(1);
    let attempt = pool.pick(&ask(0)).unwrap();
    assert_eq!(pool.members[0].endpoint.in_flight(), 1);
    drop(attempt);
    assert_eq!(pool.members[0].endpoint.in_flight(), 0);
}

#[test]
fn the_freer_of_two_is_taken() {
    let pool = equal(2);
    let busy = InFlight::begin(pool.members[0].endpoint.clone());
    for draw in [0, u64::MAX, 1 << 63, 1 << 31] {
        assert_eq!(pool.pick(&ask(draw)).unwrap().endpoint().id, EndpointId(1));
    }
    drop(busy);
}

#[test]
fn what_is_in_flight_weighs_less_on_the_stronger() {
    for balance in [Balance::PowerOfTwo, Balance::LeastConnections] {
        let pool = weighted(&[4, 1], by(balance));
        let mut held = Vec::new();
        for draw in 0..50u64 {
            held.push(pool.pick(&ask(draw << 58 | draw << 20)).unwrap());
        }
        assert_eq!(pool.members[0].endpoint.in_flight(), 40);
    }
}

#[test]
fn equal_endpoints_take_strict_turns() {
    let pool = weighted(&[3, 3, 3], by(Balance::RoundRobin));
    let picks: Vec<u32> = (0..9).map(|draw| pool.pick(&ask(draw)).unwrap().endpoint().id.0).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn nobody_waits_long_for_a_turn() {
    // The longest run of one endpoint's turns, and the longest gap between two of the weakest: smooth.
    let pool = weighted(&[5, 1, 1], by(Balance::RoundRobin));
    let picks: Vec<u32> = (0..700).map(|draw| pool.pick(&ask(draw)).unwrap().endpoint().id.0).collect();
    let longest = |of: u32| picks.split(|pick| *pick == of).map(<[u32]>::len).max().unwrap();
    assert!(longest(1) <= 12 && longest(2) <= 12, "{} {}", longest(1), longest(2));
    assert!(longest(0) <= 2, "{}", longest(0));
}

#[test]
fn the_key_is_what_the_request_says() {
    let client: std::net::IpAddr = "10.1.2.3".parse().unwrap();
    let mapped: std::net::IpAddr = "::ffff:10.1.2.3".parse().unwrap();
    let request = Request::get("/").header("x-user", "ann").header("cookie", "a=1; session=xyz");
    let key = |balance: &Balance| balance.key(client, &request.facts());
    assert_eq!(key(&Balance::PowerOfTwo), None);
    assert_eq!(key(&Balance::ClientAddressHash), Balance::ClientAddressHash.key(mapped, &request.facts()));
    assert!(key(&Balance::HeaderHash("x-user".parse().unwrap())).is_some());
    assert_eq!(key(&Balance::HeaderHash("x-other".parse().unwrap())), None);
    assert!(key(&Balance::CookieHash("session".to_owned())).is_some());
    assert_eq!(key(&Balance::CookieHash("other".to_owned())), None);
}

#[test]
fn a_request_without_a_key_goes_anywhere() {
    let pool = weighted(&[1, 1, 1, 1], by(Balance::CookieHash("session".to_owned())));
    let mut random = fastrand::Rng::with_seed(1);
    let seen: BTreeSet<u32> =
        (0..100).map(|_| pool.pick(&Ask { key: None, ..ask(random.u64(..)) }).unwrap().endpoint().id.0).collect();
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_key_s_endpoint_is_the_same_in_every_process() {
    let pool = weighted(&[1, 1, 1, 1, 1], by(Balance::ClientAddressHash));
    let picks: Vec<u32> =
        (0..12).map(|key| pool.pick(&Ask { key: Some(key), ..ask(0) }).unwrap().endpoint().id.0).collect();
    assert_eq!(picks, PINNED, "what was hashed where yesterday is hashed there tomorrow");
}

/// Written down when it was first computed.
const PINNED: [u32; 12] = [4, 2, 0, 1, 3, 4, 0, 3, 0, 3, 2, 2];

#[test]
fn few_available_of_many_are_not_overrun() {
    let pool = equal(4);
    unhealthy(&pool, [0, 1]);
    assert!(!pool.panics(NOW), "half of them will do");
    unhealthy(&pool, [2]);
    assert!(pool.panics(NOW));
    let mut random = fastrand::Rng::with_seed(2);
    assert!(shares(&pool, 4_000, NOW, &mut random).values().all(|share| (0.2..0.3).contains(share)));
}

#[test]
fn of_three_one_is_enough() {
    let pool = equal(3);
    unhealthy(&pool, [0, 1]);
    assert!(!pool.panics(NOW));
    assert_eq!(pool.pick(&ask(7)).unwrap().endpoint().id, EndpointId(2));
}

#[test]
fn only_stable_fails_open() {
    let stable = equal(2);
    unhealthy(&stable, [0, 1]);
    assert!(stable.pick(&ask(0)).is_ok());
    let canary = Pool { fails_open: false, ..equal(2) };
    unhealthy(&canary, [0, 1]);
    assert_eq!(canary.pick(&ask(0)).unwrap_err(), Unpicked::NoneLeft);
}

#[test]
fn panic_does_not_bring_back_whom_a_person_took_out() {
    let mut pool = equal(3);
    pool.members[0].administrative = Administrative::Maintenance;
    pool.members[1].administrative = Administrative::Draining;
    unhealthy(&pool, 0..3);
    for draw in 0..64 {
        assert_eq!(pool.pick(&ask(draw << 58)).unwrap().endpoint().id, EndpointId(2));
    }
    pool.members[2].administrative = Administrative::Draining;
    assert_eq!(pool.pick(&ask(0)).unwrap_err(), Unpicked::NoneLeft);
}

#[test]
fn a_threshold_of_zero_never_panics_while_one_is_available() {
    let balancing = Balancing { panic_threshold: Weight::ZERO, ..Balancing::default() };
    let pool = weighted(&[1; 10], balancing);
    unhealthy(&pool, 1..10);
    assert_eq!(pool.pick(&ask(u64::MAX)).unwrap().endpoint().id, EndpointId(0));
}

#[test]
fn a_recovered_endpoint_starts_slowly() {
    let slow = Duration::from_secs(10);
    for balance in every_way() {
        let pool = weighted(&[1, 1], Balancing { slow_start: slow, ..by(balance.clone()) });
        let endpoint = &pool.members[0].endpoint;
        endpoint.set_operational(Operational::Unhealthy, NOW);
        endpoint.set_operational(Operational::Healthy, NOW);
        let mut random = fastrand::Rng::with_seed(3);
        for (after, part) in [(0, 0.1), (1, 0.1), (5, 0.5), (10, 1.0), (60, 1.0)] {
            let share = shares(&pool, 20_000, NOW.plus(Duration::from_secs(after)), &mut random)[&0];
            let want = part / (1.0 + part);
            assert!((share - want).abs() < 0.015, "{balance:?} after {after} s: {share} instead of {want}");
        }
    }
}

#[test]
fn one_that_is_added_starts_slowly_once_time_is_told() {
    let address = SocketAddr::from(([10, 0, 0, 1], 1));
    let added = Endpoint::new(EndpointId(9), "new".into(), address).added();
    let members = [member(0, 1), Member::of(Arc::new(added))];
    let balancing = Balancing { slow_start: Duration::from_secs(10), ..Balancing::default() };
    let pool = Pool::new(members, balancing, true);
    assert_eq!(pool.effective_weight(&pool.members[1], NOW), 100);
    sweep(&pool, NOW);
    assert_eq!(pool.effective_weight(&pool.members[1], NOW.plus(Duration::from_secs(5))), 500);
    sweep(&pool, NOW.plus(Duration::from_secs(5)));
    assert_eq!(pool.effective_weight(&pool.members[1], NOW.plus(Duration::from_secs(10))), 1_000);
}

#[test]
fn whoever_is_ejected_is_asked_when_all_others_have_failed_the_request() {
    let stable = equal(2);
    for _ in 0..5 {
        stable.members[0].endpoint.failed(5);
    }
    assert_eq!(sweep(&stable, NOW).len(), 1);
    assert_eq!(stable.pick(&ask(0)).unwrap().endpoint().id, EndpointId(1), "not before");
    let second = [EndpointId(1)];
    let picked = stable.pick(&Ask { tried: &second, ..ask(0) }).unwrap();
    assert_eq!(picked.endpoint().id, EndpointId(0));
    let canary = Pool { fails_open: false, ..stable };
    assert!(canary.pick(&Ask { tried: &second, ..ask(0) }).is_err(), "stable answers for a canary");
}

#[test]
fn the_ejected_are_left_out_until_their_time_is_over() {
    let pool = equal(3);
    for _ in 0..5 {
        pool.members[1].endpoint.failed(Ejection::default().consecutive_failures);
    }
    assert_eq!(sweep(&pool, NOW).len(), 1);
    let mut random = fastrand::Rng::with_seed(4);
    let mut share = |after| shares(&pool, 3_000, NOW.plus(Duration::from_secs(after)), &mut random)[&1];
    assert!(share(29) < 1e-9 && share(31) > 0.3);
}

#[test]
fn one_at_its_limit_is_not_picked_and_all_at_theirs_are_full() {
    let limits = Limits { in_flight: Some(2), ..Limits::default() };
    for balance in every_way() {
        let pool = weighted(&[1, 1, 1], Balancing { limits, ..by(balance) });
        let held: Vec<InFlight> = (0..6).map(|draw| pool.pick(&ask(draw << 60)).unwrap()).collect();
        assert!(pool.endpoints().all(|endpoint| endpoint.in_flight() == 2));
        assert_eq!(pool.pick(&ask(1)).unwrap_err(), Unpicked::Full);
        drop(held);
        assert!(pool.pick(&ask(1)).is_ok());
    }
}

#[test]
fn a_version_has_a_limit_of_its_own() {
    let limits = Limits { version_in_flight: Some(2), ..Limits::default() };
    let pool = weighted(&[1, 1, 1], Balancing { limits, ..Balancing::default() });
    let held = [pool.pick(&ask(1)).unwrap(), pool.pick(&ask(2)).unwrap()];
    assert_eq!(pool.pick(&ask(3)).unwrap_err(), Unpicked::Full);
    assert_eq!(pool.endpoints().map(|endpoint| endpoint.in_flight()).sum::<u32>(), 2);
    drop(held);
    assert_eq!(pool.shared.in_flight(), 0);
}

#[test]
fn limits_hold_however_many_threads_pick() {
    let limits = Limits { in_flight: Some(3), version_in_flight: Some(5), ..Limits::default() };
    let pool = weighted(&[1, 2], Balancing { limits, ..Balancing::default() });
    let (all, peaks) = (Peak::new(0), [Peak::new(0), Peak::new(0)]);
    let worker = |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..5_000 {
            let Ok(taken) = pool.pick(&ask(random.u64(..))) else { continue };
            let of = &peaks[usize::try_from(taken.endpoint().id.0).unwrap()];
            assert!(of.fetch_add(1, Ordering::SeqCst) < 3 && all.fetch_add(1, Ordering::SeqCst) < 5);
            thread::yield_now();
            of.fetch_sub(1, Ordering::SeqCst);
            all.fetch_sub(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| (0..6).for_each(|seed| drop(scope.spawn(move || worker(seed)))));
    assert!(pool.endpoints().all(|endpoint| endpoint.in_flight() == 0) && pool.shared.in_flight() == 0);
}

#[test]
fn connections_have_a_limit_and_say_when_they_are_wanted() {
    let endpoint = &equal(1).members[0].endpoint;
    let (one, two) = (endpoint.connect(Some(2)).unwrap(), endpoint.connect(Some(2)));
    assert!(two.is_some() && endpoint.connect(Some(2)).is_none() && endpoint.connections() == 2);
    assert!(!one.wanted());
    let wanted = endpoint.want_connection();
    assert!(one.wanted());
    drop((two, wanted));
    assert!(!one.wanted() && endpoint.connect(Some(2)).is_some());
}

proptest! {
    #[test]
    fn what_was_tried_is_not_tried_again(
        n in 0u16..6,
        tried in prop::collection::vec(0u32..6, 0..6),
        balance in any_way(),
        draw: u64,
    ) {
        let tried: Vec<EndpointId> = tried.into_iter().map(EndpointId).collect();
        let pool = weighted(&vec![2; n.into()], by(balance));
        match pool.pick(&Ask { tried: &tried, ..ask(draw) }) {
            Ok(attempt) => prop_assert!(!tried.contains(&attempt.endpoint().id)),
            Err(_) => prop_assert!(pool.endpoints().all(|e| tried.contains(&e.id))),
        }
    }

    #[test]
    fn who_is_not_available_is_not_picked(
        states in prop::collection::vec((any::<bool>(), any::<bool>()), 1..8),
        balance in any_way(),
        draw: u64,
    ) {
        let mut pool = weighted(&vec![1; states.len()], Balancing { panic_threshold: Weight::ZERO, ..by(balance) });
        for (member, (healthy, drains)) in pool.members.iter_mut().zip(&states) {
            let operational = if *healthy { Operational::Healthy } else { Operational::Unhealthy };
            member.endpoint.set_operational(operational, NOW);
            member.administrative = if *drains { Administrative::Draining } else { Administrative::Ready };
        }
        let pool = Pool { fails_open: false, ..pool };
        match pool.pick(&ask(draw)) {
            Ok(taken) => {
                let member = pool.members.iter().find(|m| m.endpoint.id == taken.endpoint().id).unwrap();
                prop_assert!(member.takes(NOW));
            }
            Err(_) => prop_assert!(!pool.members.iter().any(|member| member.takes(NOW))),
        }
    }

    #[test]
    fn the_quick_way_takes_whom_the_long_way_would(n in 1u16..40, busy in 0usize..40, draw: u64) {
        let pool = equal(n);
        let held = pool.members.get(busy).map(|member| InFlight::begin(member.endpoint.clone()));
        let quick = pool.pick_plainly(&ask(draw)).unwrap().endpoint().id;
        prop_assert_eq!(quick, pool.choose(&ask(draw)).unwrap().endpoint.id);
        drop(held);
    }

    #[test]
    fn shares_are_as_the_weights(
        weights in prop::collection::vec(1u32..10, 1..6),
        balance in any_way(),
        seed: u64,
    ) {
        let pool = weighted(&weights, by(balance.clone()));
        let whole = f64::from(weights.iter().sum::<u32>());
        let shares = shares(&pool, 4_000, NOW, &mut fastrand::Rng::with_seed(seed));
        for (index, weight) in (0..).zip(&weights) {
            // Six standard deviations of a binomial share, for those that draw.
            let want = f64::from(*weight) / whole;
            let by_chance = 6.0 * (want * (1.0 - want) / 4_000.0).sqrt() + 1e-9;
            let slack = if balance == Balance::RoundRobin { 0.002 } else { by_chance };
            let got = shares[&index];
            prop_assert!((got - want).abs() <= slack, "{:?} {:?}: {} instead of {}", balance, weights, got, want);
        }
    }

    #[test]
    fn turns_are_even_over_any_stretch(weights in prop::collection::vec(1u32..20, 1..6), from in 0u64..10_000) {
        let pool = weighted(&weights, by(Balance::RoundRobin));
        let candidate = |member| Candidate { member, weight: pool.effective_weight(member, NOW), in_flight: 0 };
        let candidates: Vec<_> = pool.members.iter().map(candidate).collect();
        let whole = f64::from(weights.iter().sum::<u32>());
        let mut counts = vec![0.0; weights.len()];
        for turn in 0..400 {
            let picked = balance::in_turn(&candidates, from + turn).unwrap().endpoint.id.0;
            counts[usize::try_from(picked).unwrap()] += 1.0;
            let turns = f64::from(u32::try_from(turn + 1).unwrap());
            for (count, weight) in counts.iter().zip(&weights) {
                let due: f64 = turns * f64::from(*weight) / whole;
                prop_assert!((*count - due).abs() < 3.5, "{:?}: {} instead of {} after {}", weights, count, due, turns);
            }
        }
    }

    #[test]
    fn when_one_leaves_only_its_keys_move(
        weights in prop::collection::vec(1u32..10, 2..8),
        leaves in 0usize..8,
        keys in prop::collection::vec(any::<u64>(), 50),
    ) {
        let all = weighted(&weights, by(Balance::ClientAddressHash));
        let left = Pool { members: all.members.clone(), ..all.clone() };
        let leaves = leaves % weights.len();
        let gone = all.members[leaves].endpoint.id;
        let left = Pool {
            members: left.members.into_iter().filter(|member| member.endpoint.id != gone).collect(),
            ..all.clone()
        };
        let of = |pool: &Pool, key| pool.pick(&Ask { key: Some(key), ..ask(0) }).unwrap().endpoint().id;
        for key in keys {
            let (before, after) = (of(&all, key), of(&left, key));
            prop_assert!(before == after || before == gone, "read the other way: one that joins takes only its own");
        }
    }

    #[test]
    fn a_weight_moves_keys_only_to_or_from_its_endpoint(
        weights in prop::collection::vec(1u32..10, 2..6),
        changed in 1u32..10,
        keys in prop::collection::vec(any::<u64>(), 50),
    ) {
        let before = weighted(&weights, by(Balance::ClientAddressHash));
        let mut after = before.clone();
        after.members[0].weight = changed;
        let of = |pool: &Pool, key| pool.pick(&Ask { key: Some(key), ..ask(0) }).unwrap().endpoint().id.0;
        for key in keys {
            let (was, is) = (of(&before, key), of(&after, key));
            let moved = if changed > weights[0] { is } else { was };
            prop_assert!(was == is || moved == 0);
        }
    }
}
