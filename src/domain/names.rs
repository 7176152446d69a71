//! Names that were checked once and are then trusted, and serial numbers that are never reused.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name: what fits a DNS label, so that a name can become a host or a metric label anywhere.
pub const LONGEST_NAME: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name has at most {LONGEST_NAME} characters, this one has {0}")]
    Long(usize),
    #[error(
        "a name is made of letters, digits, `.`, `_` and `-`, and begins with a letter or digit; `{0}` does not fit"
    )]
    Character(char),
}

fn checked(text: &str) -> Result<Arc<str>, NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character(first));
    }
    if let Some(odd) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(NameError::Character(odd));
    }
    if text.len() > LONGEST_NAME {
        return Err(NameError::Long(text.len()));
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text; see [`NameError`] for what is refused.
            pub fn new(text: &str) -> Result<Self, NameError> {
                checked(text).map(Self)
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// What clients ask for: a set of routes, a split and its versions.
    ServiceName
);
name!(
    /// One deployed release of a service.
    VersionName
);

macro_rules! serial {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);
    };
}

serial!(
    /// A version's serial. Never reused while the process lives, so tallies of two versions cannot be mixed up.
    VersionId
);
serial!(
    /// An endpoint's serial: the key of a worker's idle connections.
    EndpointId
);
serial!(
    /// One stretch of a version's life as canary, from weight 0 upward until 0, replaced or sealed. Evidence belongs to
    /// it.
    Exposure
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_fits_a_url_a_label_and_a_file() {
        for good in ["shop", "v1", "V2.0.1-rc_3", "9lives"] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(ServiceName::new(""), Err(NameError::Empty));
        assert_eq!(ServiceName::new("-x"), Err(NameError::Character('-')));
        assert_eq!(ServiceName::new("a/b"), Err(NameError::Character('/')));
        assert_eq!(ServiceName::new("shop:promote"), Err(NameError::Character(':')));
        assert_eq!(ServiceName::new(&"a".repeat(64)), Err(NameError::Long(64)));
    }
}
