//! The interface against a real PostgreSQL, a real Redis and the real binary.
//!
//! One set of servers for all scenarios, which run one after another; a main function of its own,
//! because the usual harness has no place to end servers. `cargo test -p users --test api NAME`
//! runs those whose name holds NAME.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

mod access;
mod actuator;
mod document;
mod files;
mod operation;
mod sessions;
mod users;

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

impl World {
    pub(crate) fn sign_in(&self, username: &str, password: &str) -> String {
        let body = json!({ "username": username, "password": password });
        let answer = self.app.send("POST", "", "/api/auth/login", body).is(200);
        answer.json()["accessToken"].as_str().unwrap().to_owned()
    }

    /// A new user with this role and its access token.
    pub(crate) fn user(&self, username: &str, role: &str) -> (i64, String) {
        let body = json!({
            "username": username, "email": format!("{username}@example.org"), "role": role, "password": "correct horse",
        });
        let created = self.app.send("POST", &self.admin, "/api/users", body).is(201);
        (created.json()["id"].as_i64().unwrap(), self.sign_in(username, "correct horse"))
    }
}

const APPLICATION: Application = Application {
    name: "users",
    program: env!("CARGO_BIN_EXE_users"),
    migrations: concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"),
    variables: &[("REQUESTS_PER_MINUTE", "0")],
};

fn main() -> ExitCode {
    let rig = Rig::start(APPLICATION);
    let app = rig.app();
    let mut world = World { rig, app, admin: String::new() };
    world.admin = world.sign_in("admin", ADMIN_PASSWORD);
    let all =
        [access::ALL, users::ALL, files::ALL, sessions::ALL, document::ALL, actuator::ALL, operation::ALL].concat();
    mainstay_rig::run(&mut world, &all)
}
