//! Who asks and what they may see [RabbitMQ "Management plugin: permissions"]. Refusals are 401, never 403, as RabbitMQ's.

use crate::http::{Login, Reply, Request};
use crate::{App, snapshot};
use hornpipe_types::stats::{AdminUser, LoginRefused};
use std::collections::BTreeSet;

/// What a page asks of its user's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any of the tags `management`, `policymaker`, `monitoring`, `administrator`.
    Management,
    /// `policymaker` or `administrator`.
    Policymaker,
    /// `monitoring` or `administrator`.
    Monitoring,
    /// `administrator`.
    Administrator,
}

/// The vhosts a user may look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Visible {
    All,
    Only(BTreeSet<String>),
}

impl Visible {
    pub(crate) fn has(&self, vhost: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(vhost),
        }
    }
}

pub(crate) fn unauthorised(reason: &str) -> Reply {
    Reply::error(401, "not_authorised", reason)
}

/// Makes a browser ask for credentials.
fn challenge(reply: Reply) -> Reply {
    reply.with("www-authenticate", "Basic realm=\"RabbitMQ Management\"")
}

/// No credentials: nothing but the challenge.
fn no_credentials() -> Reply {
    challenge(Reply { status: 401, content_type: "", headers: Vec::new(), body: Vec::new() })
}

fn wrong_credentials() -> Reply {
    challenge(Reply::error(401, "not_authorized", "Not_Authorized"))
}

/// Checks credentials and tags; the error is the answer.
pub(crate) async fn login(app: &App, request: &Request, need: Need) -> Result<AdminUser, Reply> {
    let (user, password) = match &request.login {
        Login::None => return Err(no_credentials()),
        Login::Unusable => return Err(wrong_credentials()),
        Login::Basic(user, password) => (user, password),
    };
    let user = match app.broker.login(user, password, request.peer.is_loopback()).await {
        Ok(user) => user,
        Err(LoginRefused::Credentials) => return Err(wrong_credentials()),
        Err(LoginRefused::NotLoopback) => return Err(unauthorised("User can only log in via localhost")),
    };
    require(&user, need)?;
    Ok(user)
}

/// Checks the tags.
pub(crate) fn require(user: &AdminUser, need: Need) -> Result<(), Reply> {
    let (tags, reason): (&[&str], _) = match need {
        Need::Management => (&["management", "policymaker", "monitoring", "administrator"], "Not management user"),
        Need::Policymaker => (&["policymaker", "administrator"], "User not authorised to access object"),
        Need::Monitoring => (&["monitoring", "administrator"], "Not monitor user"),
        Need::Administrator => (&["administrator"], "Not administrator user"),
    };
    if user.tags.iter().any(|tag| tags.contains(&tag.as_str())) { Ok(()) } else { Err(unauthorised(reason)) }
}

/// Whether the user sees everything there is.
pub(crate) fn is_monitor(user: &AdminUser) -> bool {
    require(user, Need::Monitoring).is_ok()
}

/// The vhosts the user may look into: with a monitoring tag all, else those with a permission.
pub(crate) async fn visible(app: &App, user: &AdminUser) -> Result<Visible, Reply> {
    if is_monitor(user) {
        return Ok(Visible::All);
    }
    let permissions = snapshot::permissions(app).await?;
    let own = permissions.into_iter().filter(|p| p.user == user.name).map(|p| p.vhost.to_string());
    Ok(Visible::Only(own.collect()))
}

/// Checks that the user may look into `vhost` and that there is one of that name. A monitor is told that it is missing, anyone
/// else only that they may not.
pub(crate) async fn vhost(app: &App, user: &AdminUser, vhost: &str) -> Result<(), Reply> {
    if !visible(app, user).await?.has(vhost) {
        return Err(unauthorised("User not authorised to access virtual host"));
    }
    if snapshot::vhosts(app).await?.iter().any(|v| v.name == *vhost) { Ok(()) } else { Err(Reply::not_found()) }
}
