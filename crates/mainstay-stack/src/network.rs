//! Addresses and networks: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address.
    #[error("it is no IP address")]
    Address,
    /// No length of a prefix.
    #[error("its prefix is not /0 to /{most}")]
    Prefix {
        /// The longest of its family.
        most: u8,
    },
    /// The address says more than the prefix.
    #[error("it has bits beyond its prefix: the network is {network}")]
    Bits {
        /// Without them.
        network: String,
    },
}

impl Network {
    /// First and last address, both as IPv6 (those of IPv4 as `::ffff:a.b.c.d`).
    fn range(self) -> (u128, u128) {
        let first = mapped(self.address);
        let bits = if self.address.is_ipv4() { self.bits + 96 } else { self.bits };
        let rest = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
        (first, first | rest)
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match prefix {
            None => most,
            Some(prefix) => {
                let bits = prefix.parse::<u8>().ok().filter(|bits| *bits <= most && !prefix.starts_with('+'));
                bits.ok_or(NetworkError::Prefix { most })?
            }
        };
        let network = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        if network != address {
            return Err(NetworkError::Bits { network: format!("{network}/{bits}") });
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == most { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.bits) }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// Networks to be looked up fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address, apart from each other and in order.
    ranges: Vec<(u128, u128)>,
}

impl Networks {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether one of them has the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = mapped(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|index| self.ranges.get(index)).is_some_and(|(_, last)| address <= *last)
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut all: Vec<_> = networks.into_iter().map(Network::range).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }
}

/// Who may come: nobody that is denied, and only the allowed ones if there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Only these, when there are any.
    pub allow: Vec<Network>,
    /// None of these, though they are allowed.
    pub deny: Vec<Network>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn a_network_reads_as_it_is_shown() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "::/0", "2001:db8::/32", "::1"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
    }

    #[test]
    fn each_way_to_get_a_network_wrong_has_its_own_reason() {
        for text in ["", "10.0.0", "a.example", "10.0.0.0.0/8", "10.0.0.1-10.0.0.9"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Address), "{text}");
        }
        for (text, most) in [("10.0.0.0/33", 32), ("10.0.0.0/", 32), ("10.0.0.0/+8", 32), ("::/129", 128)] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Prefix { most }), "{text}");
        }
        let network = "10.0.0.0/8".to_owned();
        assert_eq!("10.1.2.3/8".parse::<Network>(), Err(NetworkError::Bits { network }));
    }

    #[test]
    fn an_address_of_ipv4_is_the_same_in_its_longer_form() {
        let networks: Networks =
            [network("10.0.0.0/8"), network("10.2.0.0/16"), network("2001:db8::/32")].into_iter().collect();
        for (address, expected) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(networks.contains(address.parse().expect("address")), expected, "{address}");
        }
        let all: Networks = [network("0.0.0.0/0")].into_iter().collect();
        assert!(all.contains([1, 2, 3, 4].into()) && !all.contains("2001:db8::".parse().expect("address")));
    }

    proptest! {
        #[test]
        fn many_networks_have_what_one_of_them_has(
            bases in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            asked in any::<u32>(),
            near in any::<prop::sample::Index>(),
            off in -2_i64..3,
        ) {
            let mut networks = Vec::new();
            for (base, bits) in &bases {
                let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
                networks.push(network(&format!("{}/{bits}", Ipv4Addr::from_bits(base & mask))));
            }
            let set: Networks = networks.iter().copied().collect();
            let edge = if bases.is_empty() { asked } else { near.get(&bases).0 };
            let edge = u32::try_from((i64::from(edge) + off).rem_euclid(1 << 32)).unwrap();
            for address in [asked, edge] {
                let single = bases.iter().any(|(base, bits)| {
                    let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
                    address & mask == base & mask
                });
                prop_assert_eq!(set.contains(Ipv4Addr::from_bits(address).into()), single);
            }
        }
    }
}
