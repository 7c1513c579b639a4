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

const MISUNDERSTOOD: &str = "a shard answered another question than was asked";

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
            let home = homes.place(&name);
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
    if matches!(request, R::Totals) {
        return join(all(homes.all().map(|home| totals(home))).await?);
    }
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
        // What the totals are made of is nobody's question.
        R::Totals | R::Sums { .. } => Err("sums of queues are part of the totals".to_owned()),
        R::Exchanges { vhost: None }
        | R::Bindings { vhost: None }
        | R::Vhosts
        | R::Permissions
        | R::TopicPermissions
        | R::Policies
        | R::Parameters => join(all(homes.all().map(|home| home.ask(request.clone()))).await?),
    }
}

/// Totals of one shard with what its queues hold, which takes several of its turns when they are many.
async fn totals(home: &Home) -> Result<Answer, String> {
    /// Queues of one turn.
    const SLICE: u32 = 4000;
    let mut answer = home.ask(Request::Totals).await?;
    let mut next = Some(QueueId(0));
    while let (Answer::Totals(totals), Some(after)) = (&mut answer, next) {
        let Answer::Sums(sums) = home.ask(Request::Sums { after, limit: SLICE }).await? else {
            return Err(MISUNDERSTOOD.to_owned());
        };
        totals.add_queues(&sums);
        next = sums.next;
    }
    Ok(answer)
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
        _ => Err(MISUNDERSTOOD.to_owned()),
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inbox::Item;
    use crate::{Broker, Handle, ServerConfig, Storage};
    use hornpipe_types::operate::Operate;
    use hornpipe_types::stats::Inspect;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::thread::ThreadId;
    use std::time::Duration;

    /// Where owners wait for each other inside their turns.
    #[derive(Debug, Default)]
    pub(crate) struct Meeting {
        arrived: Mutex<Vec<ThreadId>>,
        missed: AtomicBool,
        changed: Condvar,
    }

    impl Meeting {
        /// An owner is here, and stays until both are. Gives up when the other one can't come while this one waits.
        pub(crate) fn arrive(&self) {
            let mut arrived = self.arrived.lock().unwrap();
            arrived.push(std::thread::current().id());
            self.changed.notify_all();
            let alone = |a: &mut Vec<ThreadId>| a.len() < 2;
            let (arrived, waited) = self.changed.wait_timeout_while(arrived, Duration::from_secs(30), alone).unwrap();
            drop(arrived);
            self.missed.fetch_or(waited.timed_out(), Ordering::SeqCst);
        }
    }

    fn user(name: &str, password_hash: &str, limits: &[(&str, i64)]) -> UserDefinition {
        UserDefinition {
            name: name.into(),
            password_hash: password_hash.into(),
            limits: limits.iter().map(|(limit, value)| ((*limit).into(), *value)).collect(),
            ..UserDefinition::default()
        }
    }

    async fn start(shards: u32, data: &std::path::Path) -> Handle {
        Broker::new(ServerConfig { shards, ..ServerConfig::local(data) }).start().await.unwrap()
    }

    async fn vhosts(home: &Home) -> Vec<String> {
        match home.ask(Request::Vhosts).await {
            Ok(Answer::Vhosts(list)) => list.into_iter().map(|d| d.name.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn put_vhost(name: &str) -> Operation {
        Operation::PutVhost { name: name.into(), settings: Default::default() }
    }

    fn put_user(user: UserDefinition) -> Operation {
        Operation::PutUser { user, password: Password::Hashed }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn the_owners_of_two_shards_are_in_their_turns_at_the_same_time_on_two_threads() {
        let config = ServerConfig { storage: Storage::Memory, shards: 2, ..ServerConfig::local(std::env::temp_dir()) };
        let handle = Broker::new(config).start().await.unwrap();
        let meeting = Arc::new(Meeting::default());
        for home in handle.shared.homes.all() {
            home.inbox.push(Item::Meet(meeting.clone()));
        }
        handle.ask(Request::Totals).await.unwrap();
        assert!(!meeting.missed.load(Ordering::SeqCst), "one owner's turn waited for the end of the other one's");
        let threads: BTreeSet<_> = meeting.arrived.lock().unwrap().iter().map(|id| format!("{id:?}")).collect();
        assert_eq!(threads.len(), 2);
        handle.stop(Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_crash_left_undone_in_the_second_shard_is_done_at_the_start() {
        let data = tempfile::tempdir().unwrap();
        let by = ShortStr::new("guest");
        let handle = start(2, data.path()).await;
        assert!(matches!(handle.operate(&by, put_vhost("b")).await, Ok(Outcome::Created)));
        let homes = &handle.shared.homes;
        let (first, second) = (homes.first(), &homes.others()[0]);
        assert_eq!((vhosts(first).await, vhosts(second).await), (vec!["/".to_owned()], vec!["b".to_owned()]));
        for name in ["gone", "changed"] {
            let created = handle.operate(&by, put_user(user(name, "1", &[("max-channels", 3)]))).await;
            assert!(matches!(created, Ok(Outcome::Created)), "{created:?}");
        }
        let permission = hornpipe_types::definition::PermissionDefinition {
            user: "gone".into(),
            vhost: "b".into(),
            ..Default::default()
        };
        handle.operate(&by, Operation::PutPermission(permission)).await.unwrap();
        // As if the process had ended between the two shards.
        first.operate(&by, Operation::DeleteUser { name: "gone".into() }).await.unwrap();
        let limit = Operation::LimitUser { user: "changed".into(), limit: "max-channels".into(), value: None };
        first.operate(&by, limit).await.unwrap();
        first.operate(&by, put_user(user("changed", "2", &[]))).await.unwrap();
        first.operate(&by, put_user(user("new", "3", &[("max-connections", 1)]))).await.unwrap();
        assert_ne!(users(first).await.unwrap(), users(second).await.unwrap());
        handle.stop(Duration::from_secs(60)).await.unwrap();

        let handle = start(2, data.path()).await;
        let homes = &handle.shared.homes;
        let decided = users(homes.first()).await.unwrap();
        assert_eq!(decided, users(&homes.others()[0]).await.unwrap());
        assert_eq!(decided.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["changed", "guest", "new"]);
        // Whoever gets the name of one who is gone does not get his permissions.
        handle.operate(&by, put_user(user("gone", "4", &[]))).await.unwrap();
        let Ok(Answer::Permissions(held)) = handle.ask(Request::Permissions).await else { panic!() };
        assert!(held.iter().all(|d| d.user != "gone"), "{held:?}");
        handle.stop(Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_vhost_that_is_in_two_shards_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let handle = start(2, data.path()).await;
        let second = &handle.shared.homes.others()[0];
        second.operate(&"guest".into(), put_vhost("/")).await.unwrap();
        handle.stop(Duration::from_secs(60)).await.unwrap();
        let config = ServerConfig { shards: 2, ..ServerConfig::local(data.path()) };
        let error = Broker::new(config).start().await.unwrap_err().to_string();
        assert_eq!(error, "vhost '/' is in shard-0 and in shard-1 of the data folder");
    }
}
