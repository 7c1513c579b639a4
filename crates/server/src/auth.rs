//! Logins: password hashes in RabbitMQ's formats and the decision who may log in from where.
//!
//! Runs in the connection's task, never on the owner task: the shard publishes its users as a [`LoginTable`] and hashing
//! happens beside it.

use crate::argon;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hornpipe_types::definition::{LoginTable, UserDefinition};
use hornpipe_types::stats::{AdminUser, LoginRefused};
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// RabbitMQ's default hashing algorithm.
pub const SHA256: &str = "rabbit_password_hashing_sha256";
/// The longer one.
pub const SHA512: &str = "rabbit_password_hashing_sha512";
/// The one of RabbitMQ before 3.6; kept for imported definitions.
pub const MD5: &str = "rabbit_password_hashing_md5";

/// Ours, see the configuration key `password_hashing`: the hash is a PHC string. RabbitMQ doesn't know it.
pub const ARGON2ID: &str = "hornpipe_password_hashing_argon2id";

/// How the passwords of users created here are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PasswordHashing {
    /// RabbitMQ's default: such users can be exported to it.
    #[default]
    Sha256,
    /// Slow and large on purpose, so that stolen hashes are hard to search: 19 MiB and some tens of ms for each.
    Argon2id,
}

/// base64(salt ‖ H(salt ‖ password)), the form of RabbitMQ's definition files; `None` for an unknown algorithm.
pub fn hash_password(algorithm: &str, salt: [u8; 4], password: &str) -> Option<String> {
    let mut octets = salt.to_vec();
    octets.extend(digest(algorithm, &salt, password)?);
    Some(STANDARD.encode(octets))
}

/// Name of the algorithm and hash of a password, with a random salt.
///
/// # Errors
/// When the operating system gives no random octets.
pub fn new_password_hash(hashing: PasswordHashing, password: &str) -> Result<(&'static str, String), getrandom::Error> {
    let (algorithm, hash) = match hashing {
        PasswordHashing::Sha256 => {
            let mut salt = [0; 4];
            getrandom::fill(&mut salt)?;
            (SHA256, hash_password(SHA256, salt, password))
        }
        PasswordHashing::Argon2id => {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt)?;
            (ARGON2ID, argon::hash(salt, password))
        }
    };
    // an empty hash never matches
    Ok((algorithm, hash.unwrap_or_default()))
}

/// Whether `password` belongs to `hash`. An empty hash, an empty password, an unknown algorithm and a malformed hash never match.
pub fn verify_password(algorithm: &str, hash: &str, password: &str) -> bool {
    if password.is_empty() || hash.is_empty() {
        return false;
    }
    if algorithm == ARGON2ID {
        return argon::verify(hash, password);
    }
    let Ok(octets) = STANDARD.decode(hash) else { return false };
    let Some((salt, wanted)) = octets.split_first_chunk::<4>() else { return false };
    digest(algorithm, salt, password).is_some_and(|found| same(&found, wanted))
}

fn digest(algorithm: &str, salt: &[u8; 4], password: &str) -> Option<Vec<u8>> {
    fn run<D: Digest>(salt: &[u8], password: &str) -> Vec<u8> {
        D::new().chain_update(salt).chain_update(password.as_bytes()).finalize().to_vec()
    }
    Some(match algorithm {
        // Definitions without the field come from old exports, whose default this has been since 3.6.
        SHA256 | "" => run::<Sha256>(salt, password),
        SHA512 => run::<Sha512>(salt, password),
        MD5 => run::<Md5>(salt, password),
        _ => return None,
    })
}

/// Comparison whose time doesn't depend on where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// Whether an address is this machine's; an IPv4 address mapped into IPv6 counts as the IPv4 one.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Most slow logins remembered.
const KNOWN_MAX: usize = 1024;
/// Most slow hashes computed at once: each takes a thread and its memory.
const SLOW_MAX: usize = 2;

/// Decides about logins and counts them.
#[derive(Debug, Default)]
pub struct Auth {
    table: RwLock<Arc<LoginTable>>,
    loopback_users: BTreeSet<String>,
    hashing: PasswordHashing,
    /// Digest of user, hash and password of slow logins that succeeded, under a key of this process: clients that log in with
    /// each request (the HTTP API) pay once. At most [`KNOWN_MAX`].
    known: Mutex<BTreeSet<[u8; 32]>>,
    key: [u8; 32],
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Auth {
    /// Nobody can log in until [`Self::set_table`]. `loopback_users` may only log in from this machine; `hashing` is that of
    /// new users, an unknown one takes as long.
    pub fn new(loopback_users: impl IntoIterator<Item = String>, hashing: PasswordHashing) -> Self {
        let mut key = [0; 32];
        // without random octets nothing is remembered by a guessable key, as all is forgotten: see `remember`
        if getrandom::fill(&mut key).is_err() {
            key = [0; 32];
        }
        Self { loopback_users: loopback_users.into_iter().collect(), hashing, key, ..Self::default() }
    }

    /// Whether [`Self::login`] takes its time: then it belongs on a thread of its own, with at most two at once.
    pub fn is_slow(&self, user: &str, password: &str) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        match table.users.get(user) {
            Some(found) if password.is_empty() || found.password_hash.is_empty() => false,
            Some(found) => found.hashing_algorithm == ARGON2ID && !self.is_known(found, password),
            None => self.hashing == PasswordHashing::Argon2id,
        }
    }

    /// Most slow logins at once.
    pub(crate) fn slow_max() -> usize {
        SLOW_MAX
    }

    fn fingerprint(&self, user: &UserDefinition, password: &str) -> [u8; 32] {
        let hash = Sha256::new().chain_update(self.key).chain_update(user.name.as_bytes()).chain_update([0]);
        hash.chain_update(&user.password_hash).chain_update([0]).chain_update(password).finalize().into()
    }

    fn is_known(&self, user: &UserDefinition, password: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&self.fingerprint(user, password))
    }

    fn remember(&self, user: &UserDefinition, password: &str) {
        if self.key == [0; 32] {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(self.fingerprint(user, password));
    }

    fn verify(&self, user: &UserDefinition, password: &str) -> bool {
        if user.hashing_algorithm != ARGON2ID {
            return verify_password(&user.hashing_algorithm, &user.password_hash, password);
        }
        if self.is_known(user, password) {
            return true;
        }
        let ok = verify_password(ARGON2ID, &user.password_hash, password);
        if ok {
            self.remember(user, password);
        }
        ok
    }

    /// The shard's users changed.
    pub fn set_table(&self, table: Arc<LoginTable>) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Checks a password. `loopback`: the peer's address is a loopback one. The reason of a refusal is for the log only.
    ///
    /// # Errors
    /// The reason.
    pub fn login(&self, user: &str, password: &str, loopback: bool) -> Result<AdminUser, LoginRefused> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = self.decide(table.users.get(user), user, password, loopback);
        let counter = if outcome.is_ok() { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn decide(
        &self,
        found: Option<&UserDefinition>,
        user: &str,
        password: &str,
        loopback: bool,
    ) -> Result<AdminUser, LoginRefused> {
        let Some(found) = found else {
            // An unknown user takes as long as a wrong password.
            match self.hashing {
                PasswordHashing::Sha256 => drop(digest(SHA256, &[0; 4], password)),
                PasswordHashing::Argon2id => drop(argon::hash([0; 16], password)),
            }
            return Err(LoginRefused::Credentials);
        };
        if !self.verify(found, password) {
            return Err(LoginRefused::Credentials);
        }
        if !loopback && self.loopback_users.contains(user) {
            return Err(LoginRefused::NotLoopback);
        }
        Ok(AdminUser { name: found.name.clone(), tags: found.tags.clone() })
    }

    /// Logins that succeeded and failed since the start.
    pub fn attempts(&self) -> (u64, u64) {
        (self.succeeded.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hornpipe_types::names::ShortStr;

    fn check(algorithm: &str, hash: &str, password: &str, ok: bool) {
        assert_eq!(verify_password(algorithm, hash, password), ok, "{algorithm} {hash} {password}");
    }

    #[test]
    fn hashes_match_known_vectors() {
        // "test12" with salt 908DC60A: the worked example of RabbitMQ's page on password hashing.
        let documented = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        check(SHA256, documented, "test12", true);
        check(SHA256, documented, "test13", false);
        check(SHA512, documented, "test12", false);
        check("", documented, "test12", true);
        assert_eq!(hash_password(SHA256, [0x90, 0x8D, 0xC6, 0x0A], "test12").as_deref(), Some(documented));
        // printf '\x01\x02\x03\x04secret' | md5sum / sha512sum, salt prepended, base64.
        check(MD5, MD5_SECRET, "secret", true);
        check(MD5, MD5_SECRET, "Secret", false);
        check(SHA512, SHA512_SECRET, "secret", true);
        check(SHA512, SHA512_SECRET, "secret ", false);
    }

    const MD5_SECRET: &str = "AQIDBDgk9ci8Lfh6CKE9Y0AUfmU=";
    const SHA512_SECRET: &str =
        "AQIDBPhTH2L5HGYB1LWOrn+YpvuQmVOXKGqgsuiJRIZTILRoEvblSJo/WAsym3IZTfuaIaK5KR2o5KwFfTv6KsxfMIE=";

    #[test]
    fn what_is_blank_or_malformed_never_matches() {
        let of_blank = hash_password(SHA256, [1, 2, 3, 4], "").unwrap_or_default();
        check(SHA256, &of_blank, "", false);
        check(SHA256, "", "", false);
        check(SHA256, "", "x", false);
        check(SHA256, "not base64!", "x", false);
        check(SHA256, "AQI=", "x", false);
        check("rabbit_password_hashing_rot13", &of_blank, "x", false);
        assert_eq!(hash_password("rot13", [0; 4], "x"), None);
    }

    #[test]
    fn new_hashes_verify_and_are_salted() {
        for (hashing, algorithm) in [(PasswordHashing::Sha256, SHA256), (PasswordHashing::Argon2id, ARGON2ID)] {
            let new = || new_password_hash(hashing, "pässword").unwrap();
            let ((name, a), (_, b)) = (new(), new());
            assert_eq!(name, algorithm);
            assert_ne!(a, b);
            check(algorithm, &a, "pässword", true);
            check(algorithm, &b, "password", false);
        }
    }

    #[test]
    fn loopback_includes_mapped_addresses() {
        for (address, loopback) in [
            ("127.0.0.1", true),
            ("127.8.9.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", false),
            ("10.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), loopback, "{address}");
        }
    }

    fn auth() -> Auth {
        let auth = Auth::new(["guest".to_owned()], PasswordHashing::Sha256);
        let mut table = LoginTable::default();
        for (name, password, tags) in
            [("guest", "guest", &["administrator"][..]), ("app", "pw", &[]), ("cert", "", &[])]
        {
            let password_hash =
                if password.is_empty() { String::new() } else { hash_password(SHA256, [9; 4], password).unwrap() };
            let user = UserDefinition {
                name: name.into(),
                password_hash,
                hashing_algorithm: SHA256.into(),
                tags: tags.iter().map(ToString::to_string).collect(),
                limits: Vec::new(),
            };
            table.users.insert(ShortStr::new(name), user);
        }
        auth.set_table(Arc::new(table));
        auth
    }

    #[test]
    fn decisions() {
        use LoginRefused::{Credentials, NotLoopback};
        let auth = auth();
        for (user, password, loopback, expected) in [
            ("guest", "guest", true, Ok("guest")),
            ("guest", "guest", false, Err(NotLoopback)),
            ("guest", "wrong", false, Err(Credentials)),
            ("guest", "", true, Err(Credentials)),
            ("app", "pw", false, Ok("app")),
            ("app", "pw", true, Ok("app")),
            ("App", "pw", true, Err(Credentials)),
            ("cert", "", true, Err(Credentials)),
            ("cert", "x", true, Err(Credentials)),
            ("nobody", "pw", true, Err(Credentials)),
        ] {
            let found = auth.login(user, password, loopback);
            assert_eq!(
                found.as_ref().map(|u| u.name.as_str()),
                expected.as_ref().copied(),
                "{user} {password} {loopback}"
            );
        }
        assert_eq!(auth.attempts(), (3, 7));
        assert_eq!(Auth::new([], PasswordHashing::Sha256).login("guest", "guest", true), Err(Credentials));
    }

    /// A slow login is slow once; another password, another hash of the same user are not known by it.
    #[test]
    fn slow_logins_are_remembered_as_long_as_the_hash_is_the_same() {
        let auth = Auth::new([], PasswordHashing::Argon2id);
        let set = |password: &str| {
            let (algorithm, password_hash) = new_password_hash(PasswordHashing::Argon2id, password).unwrap();
            let hashing_algorithm = algorithm.to_owned();
            let user =
                UserDefinition { name: "a".into(), password_hash, hashing_algorithm, ..UserDefinition::default() };
            let mut table = LoginTable::default();
            table.users.insert("a".into(), user);
            auth.set_table(Arc::new(table));
        };
        set("one");
        assert!(auth.is_slow("a", "one") && auth.is_slow("a", "two") && auth.is_slow("nobody", "one"));
        assert!(!auth.is_slow("a", ""));
        assert!(auth.login("a", "one", true).is_ok());
        assert!(auth.login("a", "two", true).is_err());
        assert!(!auth.is_slow("a", "one") && auth.is_slow("a", "two"));
        assert!(auth.login("a", "one", true).is_ok());
        set("two");
        assert!(auth.is_slow("a", "one"));
        assert!(auth.login("a", "one", true).is_err());
        assert!(auth.login("a", "two", true).is_ok());
    }
}
