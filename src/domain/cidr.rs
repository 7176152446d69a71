//! Ranges of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits (RFC 4632 §3.1, RFC 4291 §2.3). Nothing is set behind those bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("a range is an address such as `10.1.2.3`, or a network such as `10.0.0.0/8` or `2001:db8::/32`")]
    Form,
    #[error("a network has at most {most} bits, not {length}")]
    Length { length: u32, most: u8 },
    /// Holds the network that was probably meant.
    #[error("bits are set behind the network's; that network is `{0}`")]
    HostBits(Cidr),
}

impl Cidr {
    /// The range of this address alone.
    #[must_use]
    pub fn only(address: IpAddr) -> Cidr {
        let network = address.to_canonical();
        Cidr { network, length: width(network) }
    }

    /// Whether the address lies in it. An IPv4 address is the same one when it is written as IPv6 (`::ffff:10.0.0.1`).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.length) == self.network
    }

    fn of(address: IpAddr, length: u32) -> Result<Cidr, CidrError> {
        let most = width(address);
        let length = u8::try_from(length).ok().filter(|length| *length <= most);
        let length = length.ok_or(CidrError::Length { length: 0, most })?;
        // A range of mapped addresses is one of IPv4 addresses.
        let (address, length) = match address.to_canonical() {
            canonical if canonical.is_ipv4() && address.is_ipv6() && length >= MAPPED => (canonical, length - MAPPED),
            _ => (address, length),
        };
        let network = Cidr { network: masked(address, length), length };
        if network.network == address { Ok(network) } else { Err(CidrError::HostBits(network)) }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Cidr::only).map_err(|_| CidrError::Form);
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Form)?;
        let digits = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length: u32 = length.parse().ok().filter(|_| digits).ok_or(CidrError::Form)?;
        Cidr::of(address, length).map_err(|error| match error {
            CidrError::Length { most, .. } => CidrError::Length { length, most },
            other => other,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == width(self.network) {
            return write!(f, "{}", self.network);
        }
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// Bits of an IPv6 address before the IPv4 address that is mapped into it.
const MAPPED: u8 = 96;

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits behind the first `length` cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(range: &str, address: &str) -> bool {
        range.parse::<Cidr>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_what_begins_like_it() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("::1", "::1", true),
        ] {
            assert_eq!(holds(range, address), expected, "{range} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0/8", "localhost", "10.0.0.0/8 ", "[::1]"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Form), "{text:?}");
        }
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Length { length: 33, most: 32 }));
        assert_eq!("::/129".parse::<Cidr>(), Err(CidrError::Length { length: 129, most: 128 }));
        assert_eq!("10.0.0.1/8".parse::<Cidr>(), Err(CidrError::HostBits("10.0.0.0/8".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bits: u128, length in 0u32..=128) {
            let address = IpAddr::from(Ipv6Addr::from_bits(bits));
            let range = Cidr::of(address, length).unwrap_or_else(|error| match error {
                CidrError::HostBits(range) => range,
                other => panic!("{other}"),
            });
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            prop_assert!(range.contains(address));
        }

        #[test]
        fn reading_never_panics(text in "[0-9a-f:./]{0,30}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
