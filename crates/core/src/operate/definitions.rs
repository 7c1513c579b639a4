//! Vhosts, users, permissions, policies, limits and parameters.

use crate::shard::Shard;
use hornpipe_types::definition::{
    Definition, DefinitionKey, ParameterDefinition, PermissionDefinition, PolicyDefinition, TopicPermissionDefinition,
    UserDefinition, VhostDefinition,
};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::ids::{ConnectionId, RequestId};
use hornpipe_types::names::ShortStr;
use hornpipe_types::op::StoreOp;
use hornpipe_types::operate::{Operation, Outcome, VhostSettings};
use hornpipe_types::time::Now;

fn put(existed: bool) -> Outcome {
    if existed { Outcome::Exists } else { Outcome::Created }
}

fn deleted(existed: bool) -> Outcome {
    if existed { Outcome::Done } else { Outcome::NotFound }
}

fn no_such_user(user: &str) -> Outcome {
    Outcome::Invalid(format!("no such user '{user}'"))
}

impl Shard {
    /// Everything that needs no channel.
    pub(super) fn change(&mut self, now: Now, user: &ShortStr, operation: Operation) -> Outcome {
        use Operation as O;
        match operation {
            O::PutVhost { name, settings } => {
                self.finish_razing(now, &name);
                self.put_vhost(user, name, settings)
            }
            O::PutUser { user, .. } => self.put_user(user),
            O::DeleteUser { name } => self.delete_user(now, &name),
            O::PutPermission(d) => self.put_permission(d),
            O::DeletePermission { vhost, user } => {
                let existed = self.access.delete_permission(&user, &vhost);
                if existed {
                    self.delete_definition(DefinitionKey::Permission { user, vhost });
                }
                deleted(existed)
            }
            O::PutTopicPermission(d) => self.put_topic_permission(d),
            O::DeleteTopicPermission { vhost, user, exchange } => {
                self.delete_topic_permissions(&vhost, &user, exchange.as_ref())
            }
            O::PutPolicy(d) => self.put_policy(now, d),
            O::DeletePolicy { vhost, operator, name } => {
                let existed = self.policies.delete(&vhost, operator, &name);
                if existed {
                    self.delete_definition(DefinitionKey::Policy { vhost: vhost.clone(), operator, name });
                    if let Some(index) = self.vhost_names.get(&vhost).copied() {
                        self.apply_policies(now, index);
                    }
                }
                deleted(existed)
            }
            O::LimitVhost { vhost, limit, value } => self.limit_vhost(&vhost, limit, value),
            O::LimitUser { user, limit, value } => self.limit_user(&user, limit, value),
            O::PutParameter(d) => self.put_parameter(d),
            O::DeleteParameter { vhost, component, name } => {
                let key = (vhost.clone(), component.clone(), name.clone());
                let existed = self.operations.parameters.remove(&key).is_some();
                if existed {
                    self.delete_definition(DefinitionKey::Parameter { vhost, component, name });
                }
                deleted(existed)
            }
            O::CloseConnection { connection, reason } => {
                let known = self.connections.contains_key(&connection);
                if known {
                    self.fail_connection(now, connection, AmqpError::new(ReplyCode::ConnectionForced, reason));
                }
                deleted(known)
            }
            O::Import(definition) => match *definition {
                Definition::Queue(d) => self.import_queue(now, d),
                Definition::Exchange(d) => self.import_exchange(d),
                Definition::Binding(d) => self.import_binding(now, d),
                _ => Outcome::Invalid("only queues, exchanges and bindings are imported".to_owned()),
            },
            // this goes on in slices, and these run on a channel
            O::DeleteVhost { .. }
            | O::DeclareQueue { .. }
            | O::DeleteQueue { .. }
            | O::PurgeQueue { .. }
            | O::DeclareExchange { .. }
            | O::DeleteExchange { .. }
            | O::Bind { .. }
            | O::Unbind { .. }
            | O::Publish { .. }
            | O::Get { .. } => Outcome::NotFound,
        }
    }

    fn delete_definition(&mut self, key: DefinitionKey) {
        self.log.op(StoreOp::Delete(key));
    }

    fn put_vhost(&mut self, user: &ShortStr, name: ShortStr, settings: VhostSettings) -> Outcome {
        if name.is_empty() {
            return Outcome::Invalid("a vhost needs a name".to_owned());
        }
        if let Some(kind) = &settings.default_queue_type
            && !matches!(kind.as_str(), "classic" | "quorum" | "stream" | "undefined")
        {
            return Outcome::Invalid(format!("Unsupported default queue type: {kind}"));
        }
        let known = self.vhost_names.get(&name).copied();
        let (name_of, shard) = (name.clone(), self.number);
        let fresh = VhostDefinition { name: name_of, id: self.next_vhost, shard, ..VhostDefinition::default() };
        let mut d = known.and_then(|i| self.vhosts.get(i)).map_or(fresh, |v| v.definition.clone());
        d.description = settings.description.unwrap_or(d.description);
        d.tags = settings.tags.unwrap_or(d.tags);
        if let Some(kind) = settings.default_queue_type {
            d.default_queue_type = Some(kind).filter(|kind| *kind != "undefined");
        }
        self.put_definition(Definition::Vhost(d.clone()));
        if let Some(v) = known.and_then(|i| self.vhosts.get_mut(i)) {
            v.definition = d;
            return Outcome::Exists;
        }
        self.insert_vhost(d);
        self.put_definition(Definition::NextIds { queue: self.reserved_queue, vhost: self.next_vhost });
        if self.access.user(user).is_some() {
            let all = || ".*".to_owned();
            let (user, vhost) = (user.clone(), name);
            self.put_permission(PermissionDefinition { user, vhost, configure: all(), write: all(), read: all() });
        }
        Outcome::Created
    }

    /// Begins to delete a vhost: nobody is connected to it.
    pub(super) fn begin_delete_vhost(&mut self, now: Now, request: RequestId, name: &ShortStr) {
        let Some(index) = self.vhost_names.get(name).copied() else {
            return self.tell_outcome(request, Outcome::NotFound, self.log.defined());
        };
        self.close_all(now, &format!("vhost '{name}' is deleted"), |c| c.vhost == index);
        self.raze(now, request, index);
        self.work_off_deaths(now);
    }

    /// Deletes a vhost that has lost most of its queues, unless somebody else has done so meanwhile.
    pub(crate) fn delete_vhost_at(&mut self, now: Now, request: RequestId, index: usize) {
        if let Some(name) = self.vhosts.get(index).filter(|v| !v.gone).map(|v| v.definition.name.clone()) {
            self.delete_vhost(now, index, &name);
        }
        self.tell_outcome(request, Outcome::Done, self.log.current().max(self.log.defined()));
    }

    fn delete_vhost(&mut self, now: Now, index: usize, name: &ShortStr) {
        self.close_all(now, &format!("vhost '{name}' is deleted"), |c| c.vhost == index);
        let queues = self.vhosts.get(index).map(|v| v.queues.values().copied().collect::<Vec<_>>());
        let mut queues = queues.unwrap_or_default();
        queues.sort_unstable();
        for id in queues {
            self.delete_queue(now, id);
        }
        // what the queues let die is not routed any more
        self.drop_graves(now, index);
        let exchanges: Vec<ShortStr> = self
            .vhosts
            .get(index)
            .map(|v| v.topology.exchanges().map(|(_, x)| x.definition.name.clone()).collect())
            .unwrap_or_default();
        for exchange in exchanges {
            let Some(v) = self.vhosts.get_mut(index) else { continue };
            // an auto-delete exchange may have gone with its bindings
            let Some(id) = v.topology.find(&exchange) else { continue };
            let changes = v.topology.delete(id);
            self.log_changes(index, changes);
        }
        for operator in [false, true] {
            let names: Vec<ShortStr> = self.policies.list(name, operator).map(|d| d.name.clone()).collect();
            for policy in names {
                self.delete_definition(DefinitionKey::Policy { vhost: name.clone(), operator, name: policy });
            }
        }
        self.delete_rights(|_, vhost| vhost == name);
        let gone = |key: &super::ParameterKey| key.0.as_ref() == Some(name);
        let parameters: Vec<_> = self.operations.parameters.keys().filter(|k| gone(k)).cloned().collect();
        for key in parameters {
            self.operations.parameters.remove(&key);
            let (vhost, component, name) = key;
            self.delete_definition(DefinitionKey::Parameter { vhost, component, name });
        }
        self.policies.delete_vhost(name);
        self.access.delete_vhost(name);
        self.vhost_names.remove(name);
        if let Some(v) = self.vhosts.get_mut(index) {
            v.gone = true;
            v.queues_generation += 1;
        }
        self.delete_definition(DefinitionKey::Vhost { name: name.clone() });
    }

    /// Takes permissions off the disk; the caller takes them out of the table.
    fn delete_rights(&mut self, of: impl Fn(&ShortStr, &ShortStr) -> bool) {
        let permissions = self.access.permissions().into_iter().filter(|d| of(&d.user, &d.vhost)).cloned();
        let permissions: Vec<Definition> = permissions.map(Definition::Permission).collect();
        let topics = self.access.topic_permissions().into_iter().filter(|d| of(&d.user, &d.vhost)).cloned();
        let topics: Vec<Definition> = topics.map(Definition::TopicPermission).collect();
        for definition in permissions.into_iter().chain(topics) {
            self.delete_definition(definition.key());
        }
    }

    fn close_all(&mut self, now: Now, text: &str, of: impl Fn(&crate::connection::Connection) -> bool) {
        let mut ids: Vec<ConnectionId> = self.connections.values().filter(|c| of(c)).map(|c| c.id).collect();
        ids.sort_unstable();
        for id in ids {
            self.fail_connection(now, id, AmqpError::new(ReplyCode::ConnectionForced, text));
        }
    }

    fn put_user(&mut self, mut user: UserDefinition) -> Outcome {
        if user.name.is_empty() {
            return Outcome::Invalid("a user needs a name".to_owned());
        }
        let known = self.access.user(&user.name);
        let existed = known.is_some();
        if let Some(known) = known
            && user.limits.is_empty()
        {
            user.limits.clone_from(&known.limits);
        }
        self.put_definition(Definition::User(user.clone()));
        self.access.put_user(user);
        self.logins_changed = true;
        put(existed)
    }

    fn delete_user(&mut self, now: Now, name: &ShortStr) -> Outcome {
        if self.access.user(name).is_none() {
            return Outcome::NotFound;
        }
        self.close_all(now, &format!("user '{name}' is deleted"), |c| c.open.user == *name);
        self.delete_rights(|user, _| user == name);
        self.access.delete_user(name);
        self.delete_definition(DefinitionKey::User { name: name.clone() });
        self.logins_changed = true;
        Outcome::Done
    }

    fn put_permission(&mut self, d: PermissionDefinition) -> Outcome {
        if !self.vhost_names.contains_key(&d.vhost) {
            return Outcome::NotFound;
        }
        if self.access.user(&d.user).is_none() {
            return no_such_user(&d.user);
        }
        let existed = self.access.vhost_access(&d.user, &d.vhost);
        if let Err(bad) = self.access.put_permission(d.clone()) {
            return Outcome::Invalid(bad.to_string());
        }
        self.put_definition(Definition::Permission(d));
        put(existed)
    }

    fn put_topic_permission(&mut self, d: TopicPermissionDefinition) -> Outcome {
        if !self.vhost_names.contains_key(&d.vhost) {
            return Outcome::NotFound;
        }
        if self.access.user(&d.user).is_none() {
            return no_such_user(&d.user);
        }
        let same = |o: &&TopicPermissionDefinition| o.user == d.user && o.vhost == d.vhost;
        let existed = self.access.topic_permissions().iter().any(same);
        if let Err(bad) = self.access.put_topic_permission(d.clone()) {
            return Outcome::Invalid(bad.to_string());
        }
        self.put_definition(Definition::TopicPermission(d));
        put(existed)
    }

    fn delete_topic_permissions(&mut self, vhost: &ShortStr, user: &ShortStr, exchange: Option<&ShortStr>) -> Outcome {
        let all = self.access.topic_permissions().into_iter().filter(|d| d.vhost == *vhost && d.user == *user);
        let keys: Vec<DefinitionKey> = all
            .filter(|d| exchange.is_none_or(|x| d.exchange == *x))
            .map(|d| Definition::TopicPermission(d.clone()).key())
            .collect();
        let existed = self.access.delete_topic_permission(user, vhost, exchange.map(ShortStr::as_str));
        for key in keys {
            self.delete_definition(key);
        }
        deleted(existed)
    }

    fn put_policy(&mut self, now: Now, d: PolicyDefinition) -> Outcome {
        let Some(index) = self.vhost_names.get(&d.vhost).copied() else { return Outcome::NotFound };
        let existed = self.policies.get(&d.vhost, d.operator, &d.name).is_some();
        if let Err(why) = self.policies.put(d.clone()) {
            return Outcome::Invalid(why);
        }
        self.put_definition(Definition::Policy(d));
        self.apply_policies(now, index);
        put(existed)
    }

    fn limit_vhost(&mut self, vhost: &ShortStr, limit: ShortStr, value: Option<i64>) -> Outcome {
        let Some(v) = self.vhost_names.get(vhost).and_then(|i| self.vhosts.get_mut(*i)) else {
            return Outcome::NotFound;
        };
        if !matches!(limit.as_str(), "max-connections" | "max-queues") {
            return unknown_limit(&limit);
        }
        let existed = set_limit(&mut v.definition.limits, limit, value);
        let d = v.definition.clone();
        self.access.put_vhost(&d);
        self.put_definition(Definition::Vhost(d));
        if value.is_none() { deleted(existed) } else { Outcome::Exists }
    }

    fn limit_user(&mut self, user: &ShortStr, limit: ShortStr, value: Option<i64>) -> Outcome {
        let Some(mut d) = self.access.user(user).cloned() else { return Outcome::NotFound };
        if !matches!(limit.as_str(), "max-connections" | "max-channels") {
            return unknown_limit(&limit);
        }
        let existed = set_limit(&mut d.limits, limit, value);
        self.access.put_user(d.clone());
        self.put_definition(Definition::User(d));
        self.logins_changed = true;
        if value.is_none() { deleted(existed) } else { Outcome::Exists }
    }

    fn put_parameter(&mut self, d: ParameterDefinition) -> Outcome {
        if let Some(vhost) = &d.vhost {
            if !self.vhost_names.contains_key(vhost) {
                return Outcome::NotFound;
            }
            // these have pages of their own, which check them
            if matches!(d.component.as_str(), "policy" | "operator_policy" | "vhost-limits") {
                return Outcome::Invalid(format!("Validation failed\n\ncomponent {} not found\n", d.component));
            }
        }
        let key = (d.vhost.clone(), d.component.clone(), d.name.clone());
        self.put_definition(Definition::Parameter(d.clone()));
        put(self.operations.parameters.insert(key, d).is_some())
    }
}

fn unknown_limit(limit: &str) -> Outcome {
    Outcome::Invalid(format!("Unrecognised terms [{{<<\"{limit}\">>}}] in limits"))
}

/// Sets or clears; says whether it was set before.
fn set_limit(limits: &mut Vec<(ShortStr, i64)>, limit: ShortStr, value: Option<i64>) -> bool {
    let before = limits.len();
    limits.retain(|(key, _)| *key != limit);
    let existed = limits.len() != before;
    if let Some(value) = value {
        limits.push((limit, value));
        limits.sort();
    }
    existed
}
