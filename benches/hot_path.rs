//! What one request costs outside of HTTP and the kernel: find its service, toss its coin, pick an endpoint, count it.
//!
//! The worker's recorder is private to the data plane. It is its public parts that are measured here, put together as
//! it does: a tally per version, a row per coin, both found in ordered maps.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use penstock::domain::balance::Balancing;
use penstock::domain::duration::{Kind, Timings};
use penstock::domain::names::{EndpointId, Exposure, ServiceName, VersionId};
use penstock::domain::outcome::Class;
use penstock::domain::pool::{Ask, Endpoint, Member, Pool};
use penstock::domain::route::{Facts, HostPattern, Route};
use penstock::domain::router::Router;
use penstock::domain::split::{Matcher, Pin, Role, Split, Weight};
use penstock::domain::sticky::{Cohort, Key, OwnCookie, SecretSource, Secrets, Stickiness, Sticky};
use penstock::domain::time::Tick;
use penstock::domain::window::{Coin, Drawn, Generation, Rows, Tally, tally};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Services, each with a host and three paths; and one for everything else.
fn router(hosts: usize) -> Router {
    let mut services: Vec<Vec<Arc<Route>>> = (0..hosts).map(|index| below(index, &["/", "/api", "/api/v2"])).collect();
    services.push(vec![Route::below(HostPattern::Any, "/").into()]);
    Router::of(services.iter().enumerate().map(|(index, routes)| (index, &routes[..])))
}

/// As many services as are asked for, ten routes each.
fn many(services: usize) -> Router {
    let services: Vec<Vec<Arc<Route>>> = (0..services).map(|index| below(index, &PATHS)).collect();
    Router::of(services.iter().enumerate().map(|(index, routes)| (index, &routes[..])))
}

fn below(service: usize, paths: &[&str]) -> Vec<Arc<Route>> {
    let host = HostPattern::parse(&format!("shop-{service}.example.com")).expect("a host");
    paths.iter().map(|path| Route::below(host.clone(), path).into()).collect()
}

const PATHS: [&str; 10] =
    ["/", "/api", "/api/v2", "/api/v2/cart", "/assets", "/search", "/login", "/account/orders", "/help", "/a/b/c/d"];

fn split(pins: usize) -> Split {
    let pin = |index: usize| {
        let name = format!("x-canary-{index}").parse().expect("a field name");
        Pin { matcher: Matcher::Header { name, value: Some("always".into()) }, version: 1 }
    };
    let weight = Weight::from_basis_points(1_000).expect("a tenth");
    Split { stable: 0, canary: Some(1), weight, pins: (0..pins).map(pin).collect(), sticky: None }
}

fn sticky(key: Key) -> Split {
    let secrets = Secrets::read("a secret of the benchmark").expect("long enough");
    let declared = Stickiness { key, cohort: Cohort::Rollout, secret: SecretSource::Generated, secrets };
    let service = ServiceName::new("shop").expect("a name");
    Split { sticky: Some(Arc::new(Sticky::of(&service, &Arc::new(declared), Some(Exposure(1))))), ..split(0) }
}

fn pool(endpoints: u16) -> Pool {
    let endpoint = |index: u16| {
        let address = SocketAddr::from(([127, 0, 0, 1], 9_000 + index));
        Arc::new(Endpoint::new(EndpointId(index.into()), address.to_string().into(), address))
    };
    Pool::new((0..endpoints).map(endpoint).map(Member::of), Balancing::default(), true)
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in ["accept", "accept-encoding", "accept-language", "cookie", "host", "referer", "user-agent"] {
        headers.insert(name, HeaderValue::from_static("something of the usual length, more or less"));
    }
    headers
}

fn finding(c: &mut Criterion) {
    let headers = headers();
    let facts = Facts {
        method: &Method::GET,
        host: "shop-7.example.com",
        path: "/api/v2/cart/items",
        query: None,
        headers: &headers,
        client: CLIENT,
    };
    for hosts in [0, 10, 1_000] {
        let router = router(hosts);
        c.bench_function(&format!("route/{hosts}_hosts"), |b| b.iter(|| router.route(black_box(&facts)).is_some()));
    }
    one_and_many(c, &headers);
}

/// One route, and ten thousand of a thousand services: asked for in turn, so that no cache knows the answer. What lies
/// between the two must be less than 3 % of a request, whose end-to-end cost is some 16 µs.
fn one_and_many(c: &mut Criterion, headers: &HeaderMap) {
    let only: [Arc<Route>; 1] = [Route::below(HostPattern::Any, "/").into()];
    let cases = [("1_route", Router::of([(0, &only[..])])), ("10000_routes_of_1000_services", many(1_000))];
    for (name, router) in cases {
        let mut random = fastrand::Rng::with_seed(1);
        let hosts: Vec<String> = (0..4_096).map(|_| format!("shop-{}.example.com", random.usize(..1_000))).collect();
        let mut at = 0_usize;
        c.bench_function(&format!("route/{name}"), |b| {
            b.iter(|| {
                at = (at + 1) % hosts.len();
                let (host, path) = (&*hosts[at], PATHS[at % PATHS.len()]);
                router
                    .route(black_box(&Facts { method: &Method::GET, host, path, query: None, headers, client: CLIENT }))
                    .is_some()
            });
        });
    }
}

fn choosing(c: &mut Criterion) {
    let headers = headers();
    let facts = Facts { method: &Method::GET, host: "shop", path: "/", query: None, headers: &headers, client: CLIENT };
    let mut random = fastrand::Rng::with_seed(1);
    for pins in [0, 2] {
        let split = split(pins);
        c.bench_function(&format!("choose/{pins}_pins"), |b| {
            b.iter(|| split.choose(black_box(&facts), random.u64(..)));
        });
    }
    let by_header = sticky(Key::Header("user-agent".parse().expect("a field name")));
    c.bench_function("choose/sticky_by_header", |b| b.iter(|| by_header.choose(black_box(&facts), random.u64(..))));
    let own = sticky(Key::Own(OwnCookie::default()));
    c.bench_function("choose/sticky_new_client", |b| b.iter(|| own.choose(black_box(&facts), random.u64(..))));
    let given = own.set_cookie(&own.choose(&facts, 0)).expect("a new client gets one");
    let mut known = headers.clone();
    let given = HeaderValue::from_str(given.split(';').next().unwrap_or_default()).expect("a field value");
    known.insert("cookie", given);
    let known = Facts { headers: &known, ..facts };
    c.bench_function("choose/sticky_known_client", |b| b.iter(|| own.choose(black_box(&known), random.u64(..))));
    for endpoints in [1, 10] {
        let pool = pool(endpoints);
        c.bench_function(&format!("pick/of_{endpoints}"), |b| {
            b.iter(|| pool.pick(black_box(&Ask { draw: random.u64(..), ..Ask::default() })));
        });
    }
}

fn drawn(exposure: u32) -> Drawn {
    let (tick, weight, generation) = (Tick(9), Weight::HALF, Generation(1));
    Drawn { exposure: Exposure(exposure), tick, weight, generation, coin: Coin::Tossed }
}

/// Times one request of a service, and its attempt.
fn time(timings: &mut Timings, service: u32, authority: &Arc<str>, method: &Method, micros: u64) {
    let (version, mut kind) = (VersionId(service * 2), Kind::asked(method, Version::HTTP_11, "http"));
    kind.answer(StatusCode::OK);
    timings.attempt(version, EndpointId(service), authority, micros);
    timings.request(Some(version), kind, micros);
}

/// One worker's counts of `services` services, as the recorder keeps them.
struct Counts {
    attempts: BTreeMap<VersionId, Tally>,
    requests: Rows,
    drawn: BTreeMap<VersionId, u64>,
    timings: Timings,
    authority: Arc<str>,
}

impl Counts {
    fn of(services: u32) -> Counts {
        let mut requests = Rows::default();
        for service in 0..services {
            requests.row(drawn(service));
        }
        let versions = || (0..services * 2).map(VersionId);
        Counts {
            attempts: versions().map(|version| (version, Tally::default())).collect(),
            requests,
            drawn: versions().map(|version| (version, 0)).collect(),
            timings: Timings::default(),
            authority: "10.0.0.1:80".into(),
        }
    }

    fn record(&mut self, service: u32, micros: u64) {
        let version = VersionId(service * 2);
        *self.drawn.entry(version).or_default() += 1;
        if let Some(row) = self.requests.row(drawn(service)) {
            row.arm(Role::Stable).routed += 1;
        }
        tally(self.attempts.entry(version).or_default(), Class::Success, Some(micros), micros + 100);
        if let Some(row) = self.requests.row(drawn(service)) {
            row.arm(Role::Stable).ended.add(Class::Success);
        }
        time(&mut self.timings, service, &self.authority, &Method::GET, micros + 100);
    }
}

fn recording(c: &mut Criterion) {
    for services in [1, 1_000] {
        let mut counts = Counts::of(services);
        (0..services).for_each(|service| counts.record(service, 1));
        let mut random = fastrand::Rng::with_seed(1);
        c.bench_function(&format!("time/{services}_services"), |b| {
            let Counts { timings, authority, .. } = &mut counts;
            b.iter(|| {
                time(timings, services / 2, authority, black_box(&Method::GET), black_box(random.u64(200..20_000)));
            });
        });
        c.bench_function(&format!("record/{services}_services"), |b| {
            b.iter(|| counts.record(services / 2, black_box(random.u64(200..20_000))));
        });
    }
}

fn everything(c: &mut Criterion) {
    let (headers, router, split, pool) = (headers(), router(10), split(2), pool(3));
    let facts = Facts {
        method: &Method::GET,
        host: "shop-7.example.com",
        path: "/api/v2/cart",
        query: None,
        headers: &headers,
        client: CLIENT,
    };
    let mut counts = Counts::of(10);
    let mut random = fastrand::Rng::with_seed(1);
    c.bench_function("route_choose_pick_record", |b| {
        b.iter(|| {
            let service = router.route(black_box(&facts)).map(|rule| rule.service);
            let choice = split.choose(&facts, random.u64(..));
            let attempt = pool.pick(&Ask { draw: random.u64(..), ..Ask::default() });
            counts.record(7, black_box(random.u64(200..20_000)));
            (service, choice, attempt)
        });
    });
}

fn brief() -> Criterion {
    let brief = Criterion::default().warm_up_time(Duration::from_millis(200));
    brief.measurement_time(Duration::from_millis(800)).sample_size(30).configure_from_args()
}

criterion_group! { name = benches; config = brief(); targets = finding, choosing, recording, everything }
criterion_main!(benches);
