//! Who may do what: users, permissions, topic permissions, tags and limits, with the texts of refusals.
//!
//! Patterns are compiled when they are set and searched unanchored; the empty pattern is `^$` and matches no name.
//! Channels may cache what [`Access::check`] answered for as long as [`Access::generation`] stays the same.

use hornpipe_types::Map;
use hornpipe_types::definition::{
    LoginTable, PermissionDefinition, TopicPermissionDefinition, UserDefinition, VhostDefinition,
};
use hornpipe_types::error::AmqpError;
use hornpipe_types::names::ShortStr;
use regex::Regex;
use thiserror::Error;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Permission {
    Configure,
    Write,
    Read,
}

impl Permission {
    fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What it is asked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Resource {
    Queue,
    Exchange,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// A pattern that is no regular expression this broker can run (look-around and back-references among them).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid regular expression '{pattern}': {reason}")]
pub struct BadPattern {
    /// The pattern as given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Compiles a permission pattern: unanchored, the empty one matches nothing.
pub(crate) fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    let effective = if pattern.is_empty() { "^$" } else { pattern };
    Regex::new(effective).map_err(|e| BadPattern { pattern: pattern.to_owned(), reason: reason(&e) })
}

/// The last line of the error is the reason; the lines before draw the place.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// A compiled pattern; `None` refuses everything.
type Pattern = Option<Regex>;

fn matches(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|p| p.is_match(text))
}

#[derive(Debug)]
struct Grant {
    definition: PermissionDefinition,
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

impl Grant {
    fn pattern(&self, permission: Permission) -> &Pattern {
        match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        }
    }
}

#[derive(Debug)]
struct TopicGrant {
    definition: TopicPermissionDefinition,
    write: Pattern,
    read: Pattern,
}

/// All a user has in one vhost.
#[derive(Debug, Default)]
struct InVhost {
    grant: Option<Grant>,
    /// By exchange.
    topics: Map<ShortStr, TopicGrant>,
}

/// The table of users and their rights.
#[derive(Debug, Default)]
pub struct Access {
    users: Map<ShortStr, UserDefinition>,
    /// By user, then vhost. A row may exist before its user: the log gives no order.
    rights: Map<ShortStr, Map<ShortStr, InVhost>>,
    vhost_limits: Map<ShortStr, Vec<(ShortStr, i64)>>,
    generation: u64,
}

impl Access {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows with every change; what was answered under an older number must be asked again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces a user.
    pub fn put_user(&mut self, user: UserDefinition) {
        self.generation += 1;
        self.users.insert(user.name.clone(), user);
    }

    /// Removes a user with all permissions; says whether there was one.
    pub fn delete_user(&mut self, name: &str) -> bool {
        self.generation += 1;
        self.rights.remove(name);
        self.users.remove(name).is_some()
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&UserDefinition> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> Vec<&UserDefinition> {
        let mut all: Vec<_> = self.users.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether the user carries the tag. Only `impersonator` matters to AMQP.
    pub fn has_tag(&self, user: &str, tag: &str) -> bool {
        self.users.get(user).is_some_and(|u| u.tags.iter().any(|t| t == tag))
    }

    /// Copy of what logins need, for use beside the core.
    pub fn login_table(&self) -> LoginTable {
        LoginTable { users: self.users.clone() }
    }

    /// Adds or replaces a permission.
    ///
    /// # Errors
    /// A pattern that does not compile; nothing is changed then.
    pub fn put_permission(&mut self, definition: PermissionDefinition) -> Result<(), BadPattern> {
        for pattern in [&definition.configure, &definition.write, &definition.read] {
            compile(pattern)?;
        }
        self.recover_permission(definition);
        Ok(())
    }

    /// Like [`Self::put_permission`] for a definition out of the log: a pattern that does not compile refuses everything
    /// and is reported, but the row stays.
    pub fn recover_permission(&mut self, definition: PermissionDefinition) -> Option<BadPattern> {
        let mut bad = None;
        let mut pattern = |text: &str| compile(text).map_err(|e| bad = Some(e)).ok();
        let (configure, write, read) =
            (pattern(&definition.configure), pattern(&definition.write), pattern(&definition.read));
        self.generation += 1;
        let row = self.row(&definition.user, &definition.vhost);
        row.grant = Some(Grant { definition, configure, write, read });
        bad
    }

    /// Removes a permission; says whether there was one.
    pub fn delete_permission(&mut self, user: &str, vhost: &str) -> bool {
        self.generation += 1;
        let row = self.rights.get_mut(user).and_then(|u| u.get_mut(vhost));
        let existed = row.is_some_and(|r| r.grant.take().is_some());
        self.tidy(user, vhost);
        existed
    }

    /// Adds or replaces a topic permission. `{username}` and `{vhost}` in the patterns stand for the row's own.
    ///
    /// # Errors
    /// A pattern that does not compile; nothing is changed then.
    pub fn put_topic_permission(&mut self, definition: TopicPermissionDefinition) -> Result<(), BadPattern> {
        for pattern in [&definition.write, &definition.read] {
            compile(&expand(pattern, &definition))?;
        }
        self.recover_topic_permission(definition);
        Ok(())
    }

    /// Like [`Self::put_topic_permission`] for a definition out of the log: a bad pattern refuses everything and is
    /// reported. The row must stay, because no row means no restriction.
    pub fn recover_topic_permission(&mut self, definition: TopicPermissionDefinition) -> Option<BadPattern> {
        let mut bad = None;
        let mut pattern = |text: &str| compile(&expand(text, &definition)).map_err(|e| bad = Some(e)).ok();
        let (write, read) = (pattern(&definition.write), pattern(&definition.read));
        self.generation += 1;
        let exchange = definition.exchange.clone();
        let row = self.row(&definition.user, &definition.vhost);
        row.topics.insert(exchange, TopicGrant { definition, write, read });
        bad
    }

    /// Removes the topic permission on one exchange, or those on all (`None`); says whether there was one.
    pub fn delete_topic_permission(&mut self, user: &str, vhost: &str, exchange: Option<&str>) -> bool {
        self.generation += 1;
        let existed = match (self.rights.get_mut(user).and_then(|u| u.get_mut(vhost)), exchange) {
            (None, _) => false,
            (Some(row), Some(exchange)) => row.topics.remove(exchange).is_some(),
            (Some(row), None) => !std::mem::take(&mut row.topics).is_empty(),
        };
        self.tidy(user, vhost);
        existed
    }

    /// Takes the limits of a vhost.
    pub fn put_vhost(&mut self, vhost: &VhostDefinition) {
        self.generation += 1;
        self.vhost_limits.insert(vhost.name.clone(), vhost.limits.clone());
    }

    /// Forgets a vhost: its limits and all permissions in it.
    pub fn delete_vhost(&mut self, vhost: &str) {
        self.generation += 1;
        self.vhost_limits.remove(vhost);
        for rows in self.rights.values_mut() {
            rows.remove(vhost);
        }
        self.rights.retain(|_, rows| !rows.is_empty());
    }

    /// All permissions, by user and vhost.
    pub fn permissions(&self) -> Vec<&PermissionDefinition> {
        let rows = self.rights.values().flat_map(Map::values);
        let mut all: Vec<_> = rows.filter_map(|r| r.grant.as_ref()).map(|g| &g.definition).collect();
        all.sort_by(|a, b| (&a.user, &a.vhost).cmp(&(&b.user, &b.vhost)));
        all
    }

    /// All topic permissions, by user, vhost and exchange.
    pub fn topic_permissions(&self) -> Vec<&TopicPermissionDefinition> {
        let rows = self.rights.values().flat_map(Map::values);
        let mut all: Vec<_> = rows.flat_map(|r| r.topics.values()).map(|g| &g.definition).collect();
        all.sort_by(|a, b| (&a.user, &a.vhost, &a.exchange).cmp(&(&b.user, &b.vhost, &b.exchange)));
        all
    }

    /// Whether the user may open the vhost: there is a permission row, whatever it says.
    pub fn vhost_access(&self, user: &str, vhost: &str) -> bool {
        self.grant(user, vhost).is_some()
    }

    /// The last check of connection.open: the vhost exists and the user has a row for it.
    ///
    /// # Errors
    /// 530 with RabbitMQ's texts.
    pub fn check_vhost(&self, user: &str, vhost: &str, vhost_exists: bool) -> Result<(), AmqpError> {
        if !vhost_exists {
            return Err(AmqpError::not_allowed(format!("vhost {vhost} not found")));
        }
        if !self.vhost_access(user, vhost) {
            return Err(AmqpError::not_allowed(format!("access to vhost '{vhost}' refused for user '{user}'")));
        }
        Ok(())
    }

    /// Connection limits of the vhost, then of the user, given how many connections each has already.
    ///
    /// # Errors
    /// 530 with RabbitMQ's texts.
    pub fn check_connection_limits(
        &self,
        user: &str,
        vhost: &str,
        in_vhost: u64,
        of_user: u64,
    ) -> Result<(), AmqpError> {
        if let Some(limit) = self.vhost_limit(vhost, "max-connections").filter(|l| in_vhost >= *l) {
            return Err(AmqpError::not_allowed(format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({limit}) is reached"
            )));
        }
        if let Some(limit) = self.user_limit(user, "max-connections").filter(|l| of_user >= *l) {
            return Err(AmqpError::not_allowed(format!(
                "connection refused for user '{user}': user connection limit ({limit}) is reached"
            )));
        }
        Ok(())
    }

    /// Channel limit of the user, given how many channels are open already.
    ///
    /// # Errors
    /// 530 with RabbitMQ's text.
    pub fn check_channel_limit(&self, user: &str, of_user: u64) -> Result<(), AmqpError> {
        match self.user_limit(user, "max-channels").filter(|l| of_user >= *l) {
            None => Ok(()),
            Some(limit) => Err(AmqpError::not_allowed(format!(
                "number of channels opened for user '{user}' has reached the maximum allowed user limit of ({limit})"
            ))),
        }
    }

    /// Queue limit of the vhost, given how many queues it has already.
    ///
    /// # Errors
    /// 406 with RabbitMQ's text.
    pub fn check_queue_limit(&self, queue: &str, vhost: &str, queues: u64) -> Result<(), AmqpError> {
        match self.vhost_limit(vhost, "max-queues").filter(|l| queues >= *l) {
            None => Ok(()),
            Some(limit) => Err(AmqpError::precondition(format!(
                "cannot declare queue '{queue}': queue limit in vhost '{vhost}' ({limit}) is reached"
            ))),
        }
    }

    /// A limit of a user (`max-connections`, `max-channels`); `None` = none, 0 = nothing allowed.
    pub fn user_limit(&self, user: &str, key: &str) -> Option<u64> {
        self.users.get(user).and_then(|u| limit(&u.limits, key))
    }

    /// A limit of a vhost (`max-connections`, `max-queues`); `None` = none, 0 = nothing allowed.
    pub fn vhost_limit(&self, vhost: &str, key: &str) -> Option<u64> {
        self.vhost_limits.get(vhost).and_then(|l| limit(l, key))
    }

    /// Whether the user may do this to the resource. The default exchange is named `amq.default` here.
    pub fn allows(&self, user: &str, vhost: &str, permission: Permission, resource: Resource, name: &str) -> bool {
        let name = checked_name(resource, name);
        self.grant(user, vhost).is_some_and(|g| matches(g.pattern(permission), name))
    }

    /// Like [`Self::allows`], with the refusal to send.
    ///
    /// # Errors
    /// 403 `configure access to queue 'Q' in vhost 'V' refused for user 'U'`.
    pub fn check(
        &self,
        user: &str,
        vhost: &str,
        permission: Permission,
        resource: Resource,
        name: &str,
    ) -> Result<(), AmqpError> {
        if self.allows(user, vhost, permission, resource, name) {
            return Ok(());
        }
        Err(AmqpError::access_refused(format!(
            "{} access to {} '{}' in vhost '{vhost}' refused for user '{user}'",
            permission.name(),
            resource.name(),
            checked_name(resource, name),
        )))
    }

    /// Passive declare: any one of the three permissions will do.
    ///
    /// # Errors
    /// 403, naming `configure`.
    pub fn any_of_three(&self, user: &str, vhost: &str, resource: Resource, name: &str) -> Result<(), AmqpError> {
        let any =
            [Permission::Write, Permission::Read].into_iter().any(|p| self.allows(user, vhost, p, resource, name));
        if any { Ok(()) } else { self.check(user, vhost, Permission::Configure, resource, name) }
    }

    /// Whether the user may write or read this routing key through this topic exchange; without a row all keys are
    /// allowed. To be asked for exchanges of type topic only; `Configure` is always allowed.
    ///
    /// # Errors
    /// 403 `write access to topic 'K' in exchange 'X' in vhost 'V' refused for user 'U'`.
    pub fn check_topic(
        &self,
        user: &str,
        vhost: &str,
        permission: Permission,
        exchange: &str,
        routing_key: &str,
    ) -> Result<(), AmqpError> {
        let Some(row) = self.topic_grant(user, vhost, exchange) else { return Ok(()) };
        let allowed = match permission {
            Permission::Configure => true,
            Permission::Write => matches(&row.write, routing_key),
            Permission::Read => matches(&row.read, routing_key),
        };
        if allowed {
            return Ok(());
        }
        Err(AmqpError::access_refused(format!(
            "{} access to topic '{routing_key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'",
            permission.name(),
        )))
    }

    /// Whether [`Self::check_topic`] could refuse anything: publishers skip the check per message otherwise.
    pub fn topic_restricted(&self, user: &str, vhost: &str, exchange: &str) -> bool {
        self.topic_grant(user, vhost, exchange).is_some()
    }

    fn grant(&self, user: &str, vhost: &str) -> Option<&Grant> {
        self.rights.get(user)?.get(vhost)?.grant.as_ref()
    }

    fn topic_grant(&self, user: &str, vhost: &str, exchange: &str) -> Option<&TopicGrant> {
        self.rights.get(user)?.get(vhost)?.topics.get(exchange)
    }

    fn row(&mut self, user: &ShortStr, vhost: &ShortStr) -> &mut InVhost {
        self.rights.entry(user.clone()).or_default().entry(vhost.clone()).or_default()
    }

    /// Drops a row with nothing in it.
    fn tidy(&mut self, user: &str, vhost: &str) {
        let Some(rows) = self.rights.get_mut(user) else { return };
        if rows.get(vhost).is_some_and(|r| r.grant.is_none() && r.topics.is_empty()) {
            rows.remove(vhost);
        }
        if rows.is_empty() {
            self.rights.remove(user);
        }
    }
}

fn checked_name(resource: Resource, name: &str) -> &str {
    if resource == Resource::Exchange && name.is_empty() { "amq.default" } else { name }
}

fn expand(pattern: &str, row: &TopicPermissionDefinition) -> String {
    pattern.replace("{username}", &row.user).replace("{vhost}", &row.vhost)
}

fn limit(limits: &[(ShortStr, i64)], key: &str) -> Option<u64> {
    limits.iter().find(|(k, _)| k == key).and_then(|(_, v)| u64::try_from(*v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::error::ReplyCode;

    fn permission(user: &str, vhost: &str, configure: &str, write: &str, read: &str) -> PermissionDefinition {
        PermissionDefinition {
            user: user.into(),
            vhost: vhost.into(),
            configure: configure.into(),
            write: write.into(),
            read: read.into(),
        }
    }

    fn topic(exchange: &str, write: &str, read: &str) -> TopicPermissionDefinition {
        TopicPermissionDefinition {
            user: "U".into(),
            vhost: "V".into(),
            exchange: exchange.into(),
            write: write.into(),
            read: read.into(),
        }
    }

    fn access(configure: &str, write: &str, read: &str) -> Access {
        let mut access = Access::new();
        access.put_permission(permission("U", "V", configure, write, read)).unwrap();
        access
    }

    #[test]
    fn patterns() {
        for (pattern, name, allowed) in [
            (".*", "anything", true),
            (".*", "", true),
            ("", "q", false),
            ("^$", "q", false),
            ("b", "abc", true),
            ("^b", "abc", false),
            ("^(a|b)-", "b-1", true),
            ("^q$", "q2", false),
            ("é", "café", true),
        ] {
            let access = access(pattern, "", "");
            assert_eq!(
                access.allows("U", "V", Permission::Configure, Resource::Queue, name),
                allowed,
                "{pattern:?} {name:?}"
            );
            assert!(!access.allows("U", "V", Permission::Write, Resource::Queue, "q"));
            assert!(!access.allows("other", "V", Permission::Configure, Resource::Queue, name));
            assert!(!access.allows("U", "other", Permission::Configure, Resource::Queue, name));
        }
    }

    #[test]
    fn texts() {
        let access = access("", "", "");
        for (permission, resource, name, text) in [
            (
                Permission::Configure,
                Resource::Queue,
                "Q",
                "configure access to queue 'Q' in vhost 'V' refused for user 'U'",
            ),
            (Permission::Read, Resource::Queue, "Q", "read access to queue 'Q' in vhost 'V' refused for user 'U'"),
            (
                Permission::Write,
                Resource::Exchange,
                "X",
                "write access to exchange 'X' in vhost 'V' refused for user 'U'",
            ),
            (
                Permission::Write,
                Resource::Exchange,
                "",
                "write access to exchange 'amq.default' in vhost 'V' refused for user 'U'",
            ),
        ] {
            let error = access.check("U", "V", permission, resource, name).unwrap_err();
            assert_eq!((error.code, error.text.as_str()), (ReplyCode::AccessRefused, text));
        }
    }

    #[test]
    fn default_exchange_is_amq_default() {
        let access = access("", "^amq\\.default$", "");
        assert!(access.check("U", "V", Permission::Write, Resource::Exchange, "").is_ok());
        assert!(access.check("U", "V", Permission::Write, Resource::Queue, "").is_err());
    }

    #[test]
    fn passive_declares_need_any_of_three() {
        for (c, w, r, allowed) in
            [("q", "", "", true), ("", "q", "", true), ("", "", "q", true), ("", "", "", false), ("x", "x", "x", false)]
        {
            let outcome = access(c, w, r).any_of_three("U", "V", Resource::Queue, "q");
            assert_eq!(outcome.is_ok(), allowed, "{c:?} {w:?} {r:?}");
            if let Err(error) = outcome {
                assert_eq!(error.text, "configure access to queue 'q' in vhost 'V' refused for user 'U'");
            }
        }
    }

    #[test]
    fn topics() {
        let mut access = access(".*", ".*", ".*");
        let check = |access: &Access, permission, exchange, key| {
            access.check_topic("U", "V", permission, exchange, key).map_err(|e| e.text)
        };
        assert_eq!(check(&access, Permission::Write, "X", "any"), Ok(()));
        assert!(!access.topic_restricted("U", "V", "X"));
        access.put_topic_permission(topic("X", "^{username}\\.{vhost}\\.", "")).unwrap();
        assert!(access.topic_restricted("U", "V", "X"));
        assert_eq!(check(&access, Permission::Write, "X", "U.V.1"), Ok(()));
        assert_eq!(check(&access, Permission::Write, "Y", "any"), Ok(()));
        assert_eq!(
            check(&access, Permission::Write, "X", "K"),
            Err("write access to topic 'K' in exchange 'X' in vhost 'V' refused for user 'U'".to_owned())
        );
        assert_eq!(
            check(&access, Permission::Read, "X", "U.V.1"),
            Err("read access to topic 'U.V.1' in exchange 'X' in vhost 'V' refused for user 'U'".to_owned())
        );
        assert!(access.delete_topic_permission("U", "V", None));
        assert!(!access.delete_topic_permission("U", "V", Some("X")));
        assert_eq!(check(&access, Permission::Write, "X", "K"), Ok(()));
        assert!(access.vhost_access("U", "V"));
    }

    #[test]
    fn bad_patterns_are_reported_and_refuse() {
        let mut access = access("a", "a", "a");
        let before = access.generation();
        let error = access.put_permission(permission("U", "V", ".*", "(", ".*")).unwrap_err();
        assert_eq!(error.to_string(), "invalid regular expression '(': unclosed group");
        assert!(access.put_permission(permission("U", "V", "(?=a)", "", "")).is_err());
        assert!(access.put_topic_permission(topic("X", "[", "")).is_err());
        assert_eq!(access.generation(), before);
        assert!(access.allows("U", "V", Permission::Write, Resource::Queue, "a"));

        assert!(access.recover_permission(permission("U", "V", ".*", "(", ".*")).is_some());
        assert!(access.vhost_access("U", "V"));
        assert!(access.allows("U", "V", Permission::Read, Resource::Queue, "a"));
        assert!(!access.allows("U", "V", Permission::Write, Resource::Queue, "a"));
        assert!(access.recover_topic_permission(topic("X", "[", ".*")).is_some());
        assert!(access.check_topic("U", "V", Permission::Write, "X", "k").is_err());
        assert!(access.check_topic("U", "V", Permission::Read, "X", "k").is_ok());
    }

    #[test]
    fn a_huge_pattern_is_refused_not_run() {
        assert!(compile("(a{1000}){1000}{1000}").is_err());
    }

    #[test]
    fn generations_and_deletion() {
        let mut access = access(".*", ".*", ".*");
        let mut last = access.generation();
        let mut grew = |access: &Access| {
            let grew = access.generation() > last;
            last = access.generation();
            grew
        };
        access.put_user(UserDefinition {
            name: "U".into(),
            tags: vec!["impersonator".into()],
            ..UserDefinition::default()
        });
        assert!(grew(&access));
        assert!(access.has_tag("U", "impersonator") && !access.has_tag("U", "administrator"));
        assert_eq!(access.login_table().users.len(), 1);
        access.put_topic_permission(topic("X", "", "")).unwrap();
        assert!(grew(&access));
        assert!(access.delete_permission("U", "V"));
        assert!(grew(&access));
        assert!(!access.vhost_access("U", "V"));
        assert!(!access.delete_permission("U", "V"));
        assert_eq!(access.topic_permissions().len(), 1);
        assert!(access.delete_user("U"));
        assert!(access.topic_permissions().is_empty());
        access.put_permission(permission("b", "V", "", "", "")).unwrap();
        access.put_permission(permission("a", "W", "", "", "")).unwrap();
        access.put_permission(permission("a", "V", "", "", "")).unwrap();
        let order: Vec<_> = access.permissions().iter().map(|p| format!("{}{}", p.user, p.vhost)).collect();
        assert_eq!(order, ["aV", "aW", "bV"]);
        access.delete_vhost("V");
        assert_eq!(access.permissions().len(), 1);
    }

    #[test]
    fn limits_and_vhosts() {
        let mut access = access("", "", "");
        let limits = |pairs: &[(&str, i64)]| pairs.iter().map(|(k, v)| (ShortStr::new(k), *v)).collect::<Vec<_>>();
        access.put_vhost(&VhostDefinition {
            name: "V".into(),
            limits: limits(&[("max-connections", 2), ("max-queues", 1)]),
            ..VhostDefinition::default()
        });
        access.put_user(UserDefinition {
            name: "U".into(),
            limits: limits(&[("max-connections", 0), ("max-channels", 3)]),
            ..UserDefinition::default()
        });
        access.put_user(UserDefinition {
            name: "free".into(),
            limits: limits(&[("max-connections", -1)]),
            ..UserDefinition::default()
        });
        let text = |r: Result<(), AmqpError>| r.err().map(|e| e.to_string());
        for (outcome, expected) in [
            (access.check_vhost("U", "V", true), None),
            (access.check_vhost("U", "V", false), Some("530 NOT_ALLOWED - vhost V not found")),
            (
                access.check_vhost("free", "V", true),
                Some("530 NOT_ALLOWED - access to vhost 'V' refused for user 'free'"),
            ),
            (access.check_connection_limits("free", "V", 1, 100), None),
            (
                access.check_connection_limits("free", "V", 2, 0),
                Some("530 NOT_ALLOWED - access to vhost 'V' refused for user 'free': connection limit (2) is reached"),
            ),
            (
                access.check_connection_limits("U", "V", 0, 0),
                Some("530 NOT_ALLOWED - connection refused for user 'U': user connection limit (0) is reached"),
            ),
            (access.check_channel_limit("U", 2), None),
            (
                access.check_channel_limit("U", 3),
                Some(
                    "530 NOT_ALLOWED - number of channels opened for user 'U' has reached the maximum allowed user \
                     limit of (3)",
                ),
            ),
            (access.check_queue_limit("Q", "V", 0), None),
            (
                access.check_queue_limit("Q", "V", 1),
                Some("406 PRECONDITION_FAILED - cannot declare queue 'Q': queue limit in vhost 'V' (1) is reached"),
            ),
        ] {
            assert_eq!(text(outcome).as_deref(), expected);
        }
    }
}
