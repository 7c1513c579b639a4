//! Questions and changes when there are several shards: which of them are concerned, and one answer out of theirs.
//!
//! Most concern one vhost and go to its shard. Lists and totals are put together. Changes of users go to shard 0 first and,
//! once they are on disk there, to the others, which take the same change in the same order. So shard 0 is never behind,
//! and whatever a crash leaves undone in the others is done at the next start by [`reconcile`], before anybody is served.

use crate::Shared;
use crate::homes::{Home, Homes, STOPPED};
use hornpipe_types::definition::{Definition, UserDefinition};
use hornpipe_types::ids::QueueId;
use hornpipe_types::names::ShortStr;
use hornpipe_types::operate::{Operation, Outcome, Password};
use hornpipe_types::stats::{Answer, ConnectionStats, Request};
use std::sync::Arc;

/// Queue ids are told with the shard's number above these bits, so that they are unique and lists go on from one to the
/// next shard. Those of shard 0 are told as they are.
const SHARD_SHIFT: u32 = 48;

/// Whom a change concerns.
enum Concern<'a> {
    /// The shard of this vhost.
    Vhost(&'a str),
    /// A vhost that may be new.
    NewVhost,
    /// A vhost that goes.
    OldVhost,
    /// Every shard.
    Users,
    /// Shard 0.
    Global,
    /// The shard that has the connection.
    Connection,
}

fn concern(operation: &Operation) -> Concern<'_> {
    use Operation as O;
    match operation {
        O::PutVhost { .. } => Concern::NewVhost,
        O::DeleteVhost { .. } => Concern::OldVhost,
        O::PutUser { .. } | O::DeleteUser { .. } | O::LimitUser { .. } => Concern::Users,
        O::CloseConnection { .. } => Concern::Connection,
        O::PutPermission(d) => Concern::Vhost(&d.vhost),
        O::PutTopicPermission(d) => Concern::Vhost(&d.vhost),
        O::PutPolicy(d) => Concern::Vhost(&d.vhost),
        O::PutParameter(d) => d.vhost.as_deref().map_or(Concern::Global, Concern::Vhost),
        O::DeleteParameter { vhost, .. } => vhost.as_deref().map_or(Concern::Global, Concern::Vhost),
        O::Import(definition) => match &**definition {
            Definition::Queue(d) => Concern::Vhost(&d.vhost),
            Definition::Exchange(d) => Concern::Vhost(&d.vhost),
            Definition::Binding(d) => Concern::Vhost(&d.vhost),
            // refused by whichever shard
            _ => Concern::Global,
        },
        O::DeletePermission { vhost, .. }
        | O::DeleteTopicPermission { vhost, .. }
        | O::DeletePolicy { vhost, .. }
        | O::LimitVhost { vhost, .. }
        | O::DeclareQueue { vhost, .. }
        | O::DeleteQueue { vhost, .. }
        | O::PurgeQueue { vhost, .. }
        | O::DeclareExchange { vhost, .. }
        | O::DeleteExchange { vhost, .. }
        | O::Bind { vhost, .. }
        | O::Unbind { vhost, .. }
        | O::Publish { vhost, .. }
        | O::Get { vhost, .. } => Concern::Vhost(vhost),
    }
}

/// Has a change made wherever it belongs. All it concerns have it on disk when the outcome is told.
pub(crate) async fn operate(shared: &Arc<Shared>, user: &ShortStr, operation: Operation) -> Result<Outcome, String> {
    let homes = &shared.homes;
    if homes.is_single() {
        return homes.first().operate(user, operation).await;
    }
    match concern(&operation) {
        Concern::Vhost(vhost) => homes.of(vhost).operate(user, operation).await,
        Concern::Global => homes.first().operate(user, operation).await,
        Concern::Connection => {
            for home in homes.all() {
                let outcome = home.operate(user, operation.clone()).await?;
                if !matches!(outcome, Outcome::NotFound) {
                    return Ok(outcome);
                }
            }
            Ok(Outcome::NotFound)
        }
        Concern::Users | Concern::NewVhost | Concern::OldVhost => {
            // Once begun it is brought to its end, though who asked may lose patience in the middle.
            let (shared, user) = (Arc::clone(shared), user.clone());
            let change = tokio::spawn(async move { change(&shared.homes, &user, operation).await });
            change.await.map_err(|_| STOPPED.to_owned())?
        }
    }
}

/// A change of users, or a vhost that comes or goes; one at a time.
async fn change(homes: &Homes, user: &ShortStr, operation: Operation) -> Result<Outcome, String> {
    let _alone = homes.changing.lock().await;
    match &operation {
        Operation::PutVhost { name, .. } => {
            let name = name.clone();
            let home = homes.find(&name).unwrap_or_else(|| homes.emptiest());
            let outcome = home.operate(user, operation).await?;
            if matches!(outcome, Outcome::Created | Outcome::Exists) {
                homes.enter(name, home);
            }
            Ok(outcome)
        }
        Operation::DeleteVhost { name } => {
            let name = name.clone();
            let outcome = homes.of(&name).operate(user, operation).await?;
            if matches!(outcome, Outcome::Done) {
                homes.leave(&name);
            }
            Ok(outcome)
        }
        _ => {
            let outcome = homes.first().operate(user, operation.clone()).await?;
            if matches!(outcome, Outcome::Created | Outcome::Exists | Outcome::Done) {
                all(homes.others().iter().map(|home| home.operate(user, operation.clone()))).await?;
            }
            Ok(outcome)
        }
    }
}

/// Waits for what several shards were asked at once; their answers in order.
async fn all<T>(asked: impl Iterator<Item = impl Future<Output = Result<T, String>>>) -> Result<Vec<T>, String> {
    // Each is asked before the first is waited for.
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.push(answer.await?);
    }
    Ok(answers)
}

/// Asks whomever a question concerns.
pub(crate) async fn ask(homes: &Homes, request: Request) -> Result<Answer, String> {
    use Request as R;
    if homes.is_single() {
        return homes.first().ask(request).await;
    }
    match request {
        R::Users => homes.first().ask(request).await,
        R::Exchanges { vhost: Some(ref vhost) } | R::Bindings { vhost: Some(ref vhost) } => {
            homes.of(vhost).ask(request).await
        }
        R::Queue { ref vhost, .. } => {
            let home = homes.of(vhost);
            let mut answer = home.ask(request).await?;
            if let Answer::Queue(Some(queue)) = &mut answer {
                queue.id = told(home, queue.id);
            }
            Ok(answer)
        }
        R::Queues { vhost: Some(vhost), after, limit } => {
            let home = Arc::clone(homes.of(&vhost));
            queues(&home, Some(vhost), after, limit).await
        }
        R::Queues { vhost: None, after, limit } => {
            // A slice may be shorter than asked for; an empty one would be the end.
            let mut answer = Answer::Queues(Vec::new());
            for home in homes.all().skip((after.0 >> SHARD_SHIFT) as usize) {
                answer = queues(home, None, after, limit).await?;
                if !matches!(&answer, Answer::Queues(list) if list.is_empty()) {
                    break;
                }
            }
            Ok(answer)
        }
        R::Connections { limit, .. } => {
            let answers = all(homes.all().map(|home| home.ask(request.clone()))).await?;
            let mut answer = join(answers)?;
            if let Answer::Connections(list) = &mut answer {
                list.sort_by_key(|c: &ConnectionStats| c.id);
                list.truncate(limit as usize);
            }
            Ok(answer)
        }
        R::Totals
        | R::Exchanges { vhost: None }
        | R::Bindings { vhost: None }
        | R::Vhosts
        | R::Permissions
        | R::TopicPermissions
        | R::Policies
        | R::Parameters => join(all(homes.all().map(|home| home.ask(request.clone()))).await?),
    }
}

/// A queue's id as it is told.
fn told(home: &Home, id: QueueId) -> QueueId {
    QueueId(u64::from(home.number) << SHARD_SHIFT | id.0)
}

/// Queues of one shard, with ids as they are told.
async fn queues(home: &Home, vhost: Option<ShortStr>, after: QueueId, limit: u32) -> Result<Answer, String> {
    // Of an id told by an earlier shard all of this one's are behind.
    let after = QueueId(after.0.saturating_sub(told(home, QueueId(0)).0));
    let mut answer = home.ask(Request::Queues { vhost, after, limit }).await?;
    if let Answer::Queues(list) = &mut answer {
        for queue in list {
            queue.id = told(home, queue.id);
        }
    }
    Ok(answer)
}

/// One answer out of those of all shards.
fn join(answers: Vec<Answer>) -> Result<Answer, String> {
    let mut answers = answers.into_iter();
    let mut joined = answers.next().ok_or_else(|| STOPPED.to_owned())?;
    for answer in answers {
        use Answer as A;
        match (&mut joined, answer) {
            (A::Totals(sum), A::Totals(more)) => sum.add(&more),
            (A::Connections(all), A::Connections(more)) => all.extend(more),
            (A::Exchanges(all), A::Exchanges(more)) => all.extend(more),
            (A::Bindings(all), A::Bindings(more)) => all.extend(more),
            (A::Vhosts(all), A::Vhosts(more)) => all.extend(more),
            (A::Permissions(all), A::Permissions(more)) => all.extend(more),
            (A::TopicPermissions(all), A::TopicPermissions(more)) => all.extend(more),
            (A::Policies(all), A::Policies(more)) => all.extend(more),
            (A::Parameters(all), A::Parameters(more)) => all.extend(more),
            _ => return Err("two shards answered different questions".to_owned()),
        }
    }
    Ok(joined)
}

/// Notes which vhost lives where and brings the users of all shards in line with those of shard 0: what a crash left undone,
/// and all of them in a shard that is new. On disk when it is done.
///
/// # Errors
/// A sentence when two shards say they have the same vhost, or one has ended.
pub(crate) async fn reconcile(homes: &Homes) -> Result<(), String> {
    if homes.is_single() {
        return Ok(());
    }
    for home in homes.all() {
        let Answer::Vhosts(vhosts) = home.ask(Request::Vhosts).await? else { continue };
        for vhost in vhosts {
            if let Some(other) = homes.enter(vhost.name.clone(), home) {
                let (name, number) = (vhost.name, home.number);
                return Err(format!("vhost '{name}' is in shard-{other} and in shard-{number} of the data folder"));
            }
        }
    }
    let decided = users(homes.first()).await?;
    for home in homes.others() {
        let held = users(home).await?;
        let by = ShortStr::default();
        all(corrections(&decided, &held).into_iter().map(|operation| home.operate(&by, operation))).await?;
    }
    Ok(())
}

async fn users(home: &Home) -> Result<Vec<UserDefinition>, String> {
    match home.ask(Request::Users).await? {
        Answer::Users(users) => Ok(users),
        _ => Err("a shard answered another question than was asked".to_owned()),
    }
}

/// What makes `held` users the `decided` ones. Whom there isn't any more loses his permissions too.
fn corrections(decided: &[UserDefinition], held: &[UserDefinition]) -> Vec<Operation> {
    let find = |list: &[UserDefinition], name: &str| list.iter().find(|u| u.name == name).cloned();
    let gone = held.iter().filter(|u| find(decided, &u.name).is_none());
    let mut operations: Vec<_> = gone.map(|u| Operation::DeleteUser { name: u.name.clone() }).collect();
    for user in decided {
        let before = find(held, &user.name);
        if before.as_ref() == Some(user) {
            continue;
        }
        // Limits of a user who has some stay when he is put without any.
        for (limit, _) in before.into_iter().flat_map(|u| u.limits) {
            operations.push(Operation::LimitUser { user: user.name.clone(), limit, value: None });
        }
        operations.push(Operation::PutUser { user: user.clone(), password: Password::Hashed });
    }
    operations
}
