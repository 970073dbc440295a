//! The interface against a real PostgreSQL, a real Redis and the real binary.
//!
//! One set of servers for all scenarios, which run one after another; a main function of its own,
//! because the usual harness has no place to end servers. `cargo test -p integers --test api NAME`
//! runs those whose name holds NAME.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

mod access;
mod counter;
mod operation;

use std::process::ExitCode;

use mainstay_rig::{ADMIN_PASSWORD, App, Application, Rig};
use serde_json::json;

/// What a scenario works with.
pub(crate) struct World {
    pub(crate) rig: Rig,
    pub(crate) app: App,
    /// Access token of the administrator.
    pub(crate) admin: String,
}

pub(crate) type Scenario = mainstay_rig::Scenario<World>;

/// Names scenarios by their functions.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(crate) const ALL: &[$crate::Scenario] = &[$((stringify!($name), $name)),*];
    };
}

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A registered user.
pub(crate) struct Person {
    pub(crate) id: i64,
    pub(crate) api_key: String,
}

impl World {
    pub(crate) fn sign_in(&self, username: &str, password: &str) -> String {
        let body = json!({ "username": username, "password": password });
        let answer = self.app.send("POST", "", "/auth/token", body).is(200);
        answer.json()["accessToken"].as_str().unwrap().to_owned()
    }

    pub(crate) fn person(&self, username: &str) -> Person {
        let body = json!({ "username": username, "password": PASSWORD });
        let created = self.app.send("POST", "", "/users/create", body).is(201).json();
        Person { id: created["id"].as_i64().unwrap(), api_key: created["apiKey"].as_str().unwrap().to_owned() }
    }
}

const APPLICATION: Application = Application {
    name: "integers",
    program: env!("CARGO_BIN_EXE_integers"),
    migrations: concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"),
    // Usage is rolled up and cleaned up every second, and everybody may register.
    variables: &[("USAGE_ROLLUP_SECONDS", "1"), ("PURGE_SECONDS", "1"), ("REGISTRATIONS_PER_MINUTE", "1000")],
};

fn main() -> ExitCode {
    let rig = Rig::start(APPLICATION);
    let app = rig.app();
    let mut world = World { rig, app, admin: String::new() };
    world.admin = world.sign_in("admin", ADMIN_PASSWORD);
    let all = [access::ALL, counter::ALL, operation::ALL].concat();
    mainstay_rig::run(&mut world, &all)
}
