//! What the load asks of the edge.

use mainstay_stack::Stack;
use mainstay_stack::model::{Probe as HealthProbe, RouteTarget};
use mainstay_types::ServiceName;

/// A service that is asked through the edge, and a path that it answers, without signing in: its health path if a route leads there,
/// else what is below its first route (then any answer below 500 counts as answered).
pub(crate) fn probe(stack: &Stack) -> Option<(&ServiceName, String)> {
    let leads = |path: &str, service: &ServiceName, on_management: bool| {
        let best = stack
            .edge
            .routes
            .iter()
            .filter(|route| match route.path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => route.path == path,
            })
            .max_by_key(|route| route.path.len())?;
        match &best.to {
            RouteTarget::Service { name, management } if name == service && *management == on_management => Some(()),
            RouteTarget::Service { .. } | RouteTarget::Site { .. } | RouteTarget::Redirect { .. } => None,
        }
    };
    for (name, service) in &stack.services {
        if let HealthProbe::Http { path, management } = &service.health.probe
            && leads(path, name, *management).is_some()
        {
            return Some((name, path.clone()));
        }
    }
    stack.edge.routes.iter().find_map(|route| match &route.to {
        RouteTarget::Service { management: false, name } => Some((name, route.path.trim_end_matches('*').to_owned())),
        RouteTarget::Service { .. } | RouteTarget::Site { .. } | RouteTarget::Redirect { .. } => None,
    })
}
