//! How else a path may be read. Routes look at paths as they were sent; an origin that decodes `%61`, takes `..` away,
//! or forgets what is behind a `;` asks something else of itself than the route saw. Where addresses are refused, every
//! such reading must be allowed, or `/open/../admin` would lead around the list of `/admin`.

use std::collections::BTreeSet;

/// Longer paths are not examined; most servers refuse them anyway.
const LONGEST: usize = 2_048;
/// What one path can be read as, at most: every chain of the five steps below, twice over.
const MOST: usize = 64;

/// How else it may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readings {
    /// Only as it was sent.
    Plain,
    Others(Vec<String>),
    /// There is no telling.
    TooMany,
}

/// Every other reading of a path: decoded (all of it, or what need not have been encoded), with `\` for `/` and empty
/// segments dropped, without `;parameters`, with `.` and `..` resolved; in every order, and as often as it has an
/// effect.
#[must_use]
pub fn readings(path: &str) -> Readings {
    if is_plain(path) {
        return Readings::Plain;
    }
    if path.len() > LONGEST {
        return Readings::TooMany;
    }
    let mut seen = BTreeSet::from([path.as_bytes().to_vec()]);
    let mut waiting = vec![path.as_bytes().to_vec()];
    while let Some(reading) = waiting.pop() {
        for step in STEPS {
            let read = step(&reading);
            if seen.contains(&read) {
                continue;
            }
            if seen.len() == MOST {
                return Readings::TooMany;
            }
            seen.insert(read.clone());
            waiting.push(read);
        }
    }
    seen.remove(path.as_bytes());
    Readings::Others(seen.into_iter().map(|reading| String::from_utf8_lossy(&reading).into_owned()).collect())
}

/// One thing that an origin may do. None of them makes a path longer, so they come to an end.
type Step = fn(&[u8]) -> Vec<u8>;

const STEPS: [Step; 5] = [decoded, normalised, slashed, without_parameters, resolved];

fn is_plain(path: &str) -> bool {
    let odd = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.']);
    !path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';')) && !path.as_bytes().windows(2).any(odd)
}

fn decoded(path: &[u8]) -> Vec<u8> {
    decoded_if(path, |_| true)
}

/// RFC 3986 §6.2.2.2: what means the same encoded or not.
fn normalised(path: &[u8]) -> Vec<u8> {
    decoded_if(path, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

fn decoded_if(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let byte = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let byte = byte.filter(|byte| wanted(*byte));
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &rest[3..] } else { after };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn slashed(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
    out.dedup_by(|next, last| (*next, *last) == (b'/', b'/'));
    out
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let cut = |segment: &[u8]| segment.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    path.split(|b| *b == b'/').map(cut).collect::<Vec<_>>().join(&b'/')
}

/// RFC 3986 §5.2.4.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => drop(out.pop()),
            other => {
                out.push(other);
                continue;
            }
        }
        if last {
            out.push(b"");
        }
    }
    [&b"/"[..], &out.join(&b'/')].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads_as(path: &str, other: &str) -> bool {
        match readings(path) {
            Readings::Plain => false,
            Readings::Others(others) => others.iter().any(|reading| reading == other),
            Readings::TooMany => true,
        }
    }

    #[test]
    fn an_ordinary_path_has_one_reading() {
        for path in ["/", "/a/b", "/a/b/", "/a.b/c-d_e~f", "/a..b", "/a:b@c,d=e+f!"] {
            assert_eq!(readings(path), Readings::Plain, "{path}");
        }
    }

    #[test]
    fn every_way_round_a_list_that_is_known_is_seen_through() {
        for path in [
            "/x/../admin",
            "/./admin",
            "//admin",
            "/%61dmin",
            "/%2561dmin",
            "/x/%2e%2e/admin",
            "/x/%2E./admin",
            "/x%2f..%2fadmin",
            "/x\\..\\admin",
            "/x/..;/admin",
            "/admin;a=b",
            "/;/admin",
            "/x/..%3b/admin",
            "/x/%252e%252e/admin",
            "/x//../admin",
            "/%2fadmin",
            "/y/../%61dmin",
        ] {
            assert!(reads_as(path, "/admin"), "{path}: {:?}", readings(path));
        }
    }

    #[test]
    fn steps_are_combined_in_every_order() {
        // Resolved first, then decoded and left alone; and the other way round.
        assert!(reads_as("/y/../%61dmin/%2e%2e/z", "/admin/../z"));
        assert!(reads_as("/y/../%61dmin/%2e%2e/z", "/z"));
        assert!(reads_as("/y/../admin/..;/z", "/admin/..;/z"));
    }

    #[test]
    fn what_is_too_long_or_too_odd_is_not_believed() {
        assert_eq!(readings(&format!("/{}/..", "a".repeat(LONGEST))), Readings::TooMany);
        let nested = format!("/%{}61", "25".repeat(200));
        assert_eq!(readings(&nested), Readings::TooMany);
    }

    proptest! {
        #[test]
        fn readings_are_few_and_differ(path in "/([a/.;\\\\]|%2[eEfF5]|%61){0,20}") {
            match readings(&path) {
                Readings::Plain => prop_assert!(is_plain(&path)),
                Readings::Others(others) => {
                    prop_assert!(others.len() < MOST && !others.contains(&path));
                    prop_assert!(others.iter().all(|reading| reading.len() <= path.len()));
                }
                Readings::TooMany => {}
            }
        }

        /// Any origin's chain of steps ends at a reading that was examined.
        #[test]
        fn no_chain_of_steps_leads_out(
            path in "/([a/.;]|%2[eEfF]|%61){0,12}", chain in prop::collection::vec(0usize..5, 0..6),
        ) {
            let read = chain.iter().fold(path.clone().into_bytes(), |read, step| STEPS[*step](&read));
            let read = String::from_utf8(read).unwrap();
            prop_assert!(read == path || reads_as(&path, &read), "{} as {}", path, read);
        }
    }
}
