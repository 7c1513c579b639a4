//! Argon2id for the passwords of users created here, when the configuration asks for it [RFC 9106].
//!
//! A hash is a PHC string, `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`: it carries its own parameters, so that these may grow
//! without harm to what is stored.

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

/// Memory of one hash in KiB, passes over it, lanes: OWASP's first choice for Argon2id.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Hashes that ask for more than this (KiB, passes, lanes) are never computed: they may come from an import.
const COST_MAX: (u32, u32, u32) = (262_144, 16, 16);

/// The PHC string of a password.
pub(crate) fn hash(salt: [u8; 16], password: &str) -> Option<String> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).ok()?;
    let salt = SaltString::encode_b64(&salt).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Some(argon.hash_password(password.as_bytes(), &salt).ok()?.to_string())
}

/// Whether a password belongs to a PHC string.
pub(crate) fn verify(hash: &str, password: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    let at_most = |name: &str, max: u32| parsed.params.get_decimal(name).is_some_and(|n| n <= max);
    let (memory, passes, lanes) = COST_MAX;
    parsed.algorithm == Algorithm::Argon2id.ident()
        && at_most("m", memory)
        && at_most("t", passes)
        && at_most("p", lanes)
        && Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_read_back_and_carry_their_cost() {
        let a = hash([7; 16], "pässword").unwrap();
        assert!(a.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{a}");
        assert!(verify(&a, "pässword"));
        assert!(!verify(&a, "password"));
        assert_ne!(hash([8; 16], "pässword").unwrap(), a);
    }

    #[test]
    fn what_is_malformed_too_dear_or_of_another_kind_is_refused() {
        for bad in [
            "",
            "$argon2id$",
            "$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHQ$AAAA",
            "$argon2d$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(!verify(bad, "secret"), "{bad}");
        }
    }
}
