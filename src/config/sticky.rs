//! `[services.NAME.sticky]`: by what clients are known again, and the cookie that we set for it. Secrets are named
//! here, and read elsewhere (`app`).

use std::path::PathBuf;
use std::time::Duration;

use super::file::{At, Field, Meaning, Table};
use super::problem::clipped;
use super::service::Draft;
use super::value::{self, Bounds};
use crate::domain::judge::Unit;
use crate::domain::sticky::{Cohort, Key, OwnCookie, SameSite, SecretSource, Secrets, Secure, Stickiness};

pub(super) fn read(field: Field<'_>) -> Option<Stickiness> {
    let mut table = field.section()?;
    let keys = [table.get("by"), table.get("header"), table.get("cookie")];
    let key = key(&table, keys);
    let cookie = own_cookie(&mut table, key.as_ref());
    let cohort = table.get("cohort").and_then(|field| value::word(&field, &COHORTS)).unwrap_or_default();
    let secret = secret(&mut table);
    table.finish();
    let key = match key? {
        Key::Own(_) => Key::Own(cookie),
        other => other,
    };
    Some(Stickiness { key, cohort, secret, secrets: Secrets::default() })
}

/// What one coin is tossed for when clients are sticky.
pub(super) fn unit(sticky: &Stickiness) -> Unit {
    match sticky.cohort {
        Cohort::Rollout => Unit::Session,
        Cohort::Fixed => Unit::None,
    }
}

/// At most one of `by`, `header` and `cookie`; without them, our own cookie.
fn key(table: &Table<'_>, keys: [Option<Field<'_>>; 3]) -> Option<Key> {
    match keys {
        [None, None, None] => Some(Key::Own(OwnCookie::default())),
        [Some(by), None, None] => match value::word(&by, &BY)? {
            By::OwnCookie => Some(Key::Own(OwnCookie::default())),
            By::ClientAddress => Some(Key::ClientAddress),
        },
        [None, Some(header), None] => value::header_name(&header).map(Key::Header),
        [None, None, Some(cookie)] => value::cookie_name(&cookie).map(Key::Cookie),
        _ => {
            let help = "keep one of `by`, `header` and `cookie`: a client has one bucket";
            table.place.error("clients are known by one thing", help);
            None
        }
    }
}

/// What is said of our own cookie where there is none is a misunderstanding.
fn own_cookie(table: &mut Table<'_>, key: Option<&Key>) -> OwnCookie {
    let written = [table.get("cookie_name"), table.get("same_site"), table.get("max_age"), table.get("secure")];
    if key.is_some_and(|key| !matches!(key, Key::Own(_))) {
        for field in written.iter().flatten() {
            let message = format!("`{}` is about Penstock's own cookie, and none is set here", field.place.key);
            field.place.error(message, "remove it, or write `by = \"cookie\"` instead of the key");
        }
        return OwnCookie::default();
    }
    let [name, same_site, max_age, secure] = written;
    let cookie = OwnCookie {
        name: name.as_ref().and_then(|field| value::cookie_name(field)),
        same_site: same_site.as_ref().and_then(|field| value::word(field, &SAME_SITES)).unwrap_or_default(),
        max_age: max_age.and_then(|field| value::duration(&field, &MAX_AGE)),
        secure: secure.and_then(|field| self::secure(&field)).unwrap_or_default(),
    };
    if let Some(field) = same_site.filter(|_| cookie.same_site == SameSite::None && !cookie.secure.holds()) {
        let help = "add `secure = true`, and let clients come over HTTPS";
        field.place.error("browsers refuse `SameSite=None` without `Secure`", help);
    }
    let prefixed = |name: &String| name.starts_with("__Host-") || name.starts_with("__Secure-");
    if let Some(field) = name.filter(|_| cookie.name.as_ref().is_some_and(prefixed) && !cookie.secure.holds()) {
        let help = "add `secure = true`, and let clients come over HTTPS, or choose another name";
        field.place.error("browsers refuse a cookie of this name without `Secure`", help);
    }
    cookie
}

/// Cookies of one host share their names, whatever their paths: two services would overwrite each other's for ever.
pub(super) fn check_names(services: &[Draft<'_>]) {
    let named = |service: &Draft<'_>| match &service.sticky.as_ref()?.key {
        Key::Own(cookie) => cookie.name.clone(),
        Key::Header(_) | Key::Cookie(_) | Key::ClientAddress => None,
    };
    for (index, service) in services.iter().enumerate() {
        let same = |first: &&Draft<'_>| named(service).is_some() && named(first) == named(service);
        if let (Some(first), Some(name)) = (services[..index].iter().find(same), named(service)) {
            let message = format!("the cookie `{}` is another service's already", clipped(&name));
            let help = "give each service a `cookie_name` of its own, or leave it to the default";
            service.place.error_beside(&first.place, "the other service", message, help);
        }
    }
}

fn secure(field: &Field<'_>) -> Option<Secure> {
    if field.is_text_of("auto") {
        return Some(Secure::Auto);
    }
    if !field.is_boolean() {
        let help = format!("write `{}`, `true`, or `false`", field.assigned(&field.quoted("auto")));
        field.place.error(format!("expected `true`, `false` or `auto`, found {}", field.found()), help);
        return None;
    }
    field.boolean().map(|secure| if secure { Secure::Always } else { Secure::Never })
}

/// At most one place.
fn secret(table: &mut Table<'_>) -> SecretSource {
    let (file, variable) = (table.get("secret_file"), table.get("secret_env"));
    if let (Some(file), Some(variable)) = (&file, &variable) {
        let help = "keep one of `secret_file` and `secret_env`";
        variable.place.error_beside(&file.place, "a file", "the secret has two places", help);
    }
    let path = file.and_then(|field| value::path(&field, "sticky.secret")).map(|path: At<'_, PathBuf>| path.value);
    let name = variable.and_then(|field| variable_name(&field));
    match (path, name) {
        (Some(path), _) => SecretSource::File(path),
        (None, Some(name)) => SecretSource::Environment(name),
        (None, None) => SecretSource::Generated,
    }
}

/// The secret itself in its place is the likeliest slip, so what is wrong is not repeated.
fn variable_name(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("STICKY_SECRET"))?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.starts_with("PENSTOCK_") {
        let message = format!("`{}` would be read as a setting", clipped(text));
        place.error(message, "give the variable a name that does not begin with `PENSTOCK_`");
        return None;
    }
    if !text.is_empty() && !text.as_bytes()[0].is_ascii_digit() && text.bytes().all(fits) {
        return Some(text.to_owned());
    }
    place.error("this is not the name of a variable", "name the variable that holds the secret, not the secret");
    None
}

pub(super) fn same_site(same_site: SameSite) -> &'static str {
    SAME_SITES.iter().find(|(_, known)| *known == same_site).map_or("", |(word, _)| word)
}

#[derive(Debug, Clone, Copy)]
enum By {
    OwnCookie,
    ClientAddress,
}

const BY: [(&str, By); 2] = [("cookie", By::OwnCookie), ("client-address", By::ClientAddress)];
const COHORTS: [(&str, Cohort); 2] = [("rollout", Cohort::Rollout), ("fixed", Cohort::Fixed)];
const SAME_SITES: [(&str, SameSite); 3] =
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];

const MAX_AGE: Bounds = Bounds {
    least: Duration::from_mins(1),
    most: Duration::from_hours(7 * 24),
    why: "a shorter one moves people about, and no rollout takes longer",
};
