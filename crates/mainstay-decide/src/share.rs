//! Which clients of a service go to its new release while two of them run.
//!
//! A share is one of clients, not of requests: a client stays on its side for as long as the share is what it is, and
//! a share that rises only moves clients towards the new release. Nothing is remembered: a client's place is the hash
//! of what it is known by, with the release as salt, so that it is not always the same people who go first.

use serde::{Deserialize, Serialize};

use crate::balance::{hash, mix};

/// All clients. **Unit**: ten-thousandths.
pub const ALL: u16 = 10_000;

/// So many of a service's clients go to endpoints of a release, the others to endpoints of other releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The new release.
    pub release: u64,
    /// Its clients. **Unit**: ten-thousandths, at most [`ALL`]; 0: nobody who does not ask for it.
    pub basis_points: u16,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Endpoints of the share's release.
    New,
    /// All others.
    Old,
}

impl Share {
    /// The side of an endpoint of this release.
    pub fn side_of(self, release: u64) -> Side {
        if release == self.release { Side::New } else { Side::Old }
    }

    /// The side of a client, by the hash of what it is known by.
    pub fn side(self, client: u64) -> Side {
        if place(client, self.release) < self.basis_points { Side::New } else { Side::Old }
    }

    /// The other side, if it may serve while none of this side is there. A release that has no share is not proven:
    /// it stands in for nobody.
    pub fn stand_in(self, side: Side) -> Option<Side> {
        match side {
            Side::New => Some(Side::Old),
            Side::Old => (self.basis_points > 0).then_some(Side::New),
        }
    }

    /// Whether a client that is tied to an endpoint of this side stays there. Not when nobody is to be there.
    pub fn keeps(self, side: Side) -> bool {
        match side {
            Side::New => self.basis_points > 0,
            Side::Old => self.basis_points < ALL,
        }
    }
}

/// A client's place in the order in which clients of a release come to it. **Unit**: ten-thousandths, below [`ALL`].
fn place(client: u64, release: u64) -> u16 {
    // Not the hash by which a client is given an instance: else those who share one would come together.
    let salt = hash(b"release") ^ mix(release);
    let place = (u128::from(mix(client ^ salt)) * u128::from(ALL)) >> 64;
    u16::try_from(place).unwrap_or(ALL)
}

#[cfg(test)]
mod tests;
