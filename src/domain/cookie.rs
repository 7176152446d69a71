//! The `Cookie` field of a request (RFC 6265 §5.4), byte for byte: other people's cookies need not be text.

use http::HeaderMap;
use http::header::COOKIE;

/// All `name=value` pairs of all `Cookie` fields, in the order of the request; quotes are kept as sent.
pub fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let fields = headers.get_all(COOKIE).into_iter();
    fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).filter_map(pair)
}

/// The field without the pairs of that name, everything else as it was; `None` if the name is not in it.
#[must_use]
pub fn without(field: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let named = |crumb: &&[u8]| pair(crumb).is_some_and(|(seen, _)| seen == name);
    if !field.split(|byte| *byte == b';').any(|crumb| named(&crumb)) {
        return None;
    }
    let kept: Vec<&[u8]> = field.split(|byte| *byte == b';').filter(|crumb| !named(crumb)).collect();
    Some(kept.join(&b';').trim_ascii_start().to_vec())
}

fn pair(crumb: &[u8]) -> Option<(&[u8], &[u8])> {
    let crumb = crumb.trim_ascii();
    let equals = crumb.iter().position(|byte| *byte == b'=')?;
    Some((&crumb[..equals], &crumb[equals + 1..]))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cookies_are_found_among_what_is_no_text() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(b"a=\xff; ours=1;b=\"x\"").unwrap());
        headers.append(COOKIE, HeaderValue::from_static("ours=2; flag"));
        let found: Vec<_> = pairs(&headers).collect();
        assert_eq!(found, [(&b"a"[..], &b"\xff"[..]), (b"ours", b"1"), (b"b", b"\"x\""), (b"ours", b"2")]);
    }

    #[test]
    fn one_cookie_is_taken_out_and_the_others_stay_as_they_were() {
        for (field, left) in [
            ("ours=1", Some("")),
            ("ours=1; a=b", Some("a=b")),
            ("a=b; ours=1", Some("a=b")),
            ("a=b;ours=1;  c=\"d\" ; flag", Some("a=b;  c=\"d\" ; flag")),
            ("a=b; ours=1; c=d; ours=2", Some("a=b; c=d")),
            ("yours=1; ours-too=2", None),
            ("a=ours=1", None),
            ("", None),
        ] {
            let without = without(field.as_bytes(), b"ours");
            assert_eq!(without.as_deref(), left.map(str::as_bytes), "{field}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_are_the_other_pairs_in_order(
            crumbs in prop::collection::vec("(a|ours|b)=[a-z\"=]{0,3}", 0..6),
        ) {
            let field = crumbs.join("; ");
            let others: Vec<&str> =
                crumbs.iter().map(String::as_str).filter(|crumb| !crumb.starts_with("ours=")).collect();
            let left = without(field.as_bytes(), b"ours");
            prop_assert_eq!(left.is_some(), others.len() < crumbs.len());
            prop_assert_eq!(left.unwrap_or(field.into_bytes()), others.join("; ").into_bytes());
        }
    }
}
