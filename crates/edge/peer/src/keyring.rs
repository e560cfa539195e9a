//! Secrets that the kernel keeps for this user: they outlive the process and not the machine.
//!
//! They are `user` keys on the user keyring (`keyrings(7)`), readable by whoever possesses them,
//! which means processes of the same user in the same user namespace. The kernel forgets a key by
//! itself when its lifetime is over.

use std::ffi::CString;
use std::io;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::sys::{self, Keyctl};

/// `KEY_SPEC_THREAD_KEYRING`.
const THREAD: i32 = -1;
/// `KEY_SPEC_USER_KEYRING`.
const USER: i32 = -4;
/// All rights for who possesses the key, none for its user, group and others.
const POSSESSOR_ONLY: u32 = 0x3f00_0000;
/// The longest payload that is read back; the kernel's own limit is just below.
const LONGEST: usize = 32 * 1024;

/// Keeps `secret` under `name`, in place of what was there, for `lifetime` (rounded up to a
/// second).
///
/// Errors are the kernel's: `ENOSYS` or `EPERM` where keys are not allowed, such as in most
/// containers; `EDQUOT` when the user has too many.
pub fn put(name: &str, secret: &[u8], lifetime: Duration) -> io::Result<()> {
    let name = c_string(name)?;
    // One that is revoked or expired cannot be written over.
    sys::add_key(&name, secret, USER)?;
    let key = possess(&name)?;
    let seconds = lifetime.as_secs().saturating_add(1);
    let limited = sys::keyctl(Keyctl::SetPermissions(key, POSSESSOR_ONLY)).and_then(|_zero| {
        sys::keyctl(Keyctl::SetTimeout(
            key,
            u32::try_from(seconds).unwrap_or(u32::MAX),
        ))
    });
    if limited.is_err() {
        // Better none than one that others read, or that never ends.
        drop(sys::keyctl(Keyctl::Invalidate(key)));
    }
    limited.map(drop)
}

/// Sets the lifetime of the secret anew, from now on (rounded up to a second).
pub fn prolong(name: &str, lifetime: Duration) -> io::Result<()> {
    let key = possess(&c_string(name)?)?;
    let seconds = u32::try_from(lifetime.as_secs().saturating_add(1)).unwrap_or(u32::MAX);
    sys::keyctl(Keyctl::SetTimeout(key, seconds)).map(drop)
}

/// The secret under `name`; `None` if there is none, or its lifetime is over.
pub fn find(name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let key = match possess(&c_string(name)?) {
        Ok(key) => key,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut secret = Zeroizing::new(vec![0; LONGEST]);
    let length = match sys::keyctl(Keyctl::Read(key, &mut secret)) {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > secret.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    secret.truncate(length);
    Ok(Some(secret))
}

/// Forgets the secret under `name`; there may be none.
pub fn remove(name: &str) -> io::Result<()> {
    match possess(&c_string(name)?) {
        Ok(key) => sys::keyctl(Keyctl::Invalidate(key)).map(drop),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Finds a key by way of the user keyring, and links it to this thread's: a key named by its
/// number alone is possessed only by whom it is linked to, and a service has a session keyring of
/// its own that does not have the user's.
fn possess(name: &CString) -> io::Result<i32> {
    let key = sys::keyctl(Keyctl::Search {
        keyring: USER,
        name,
        link_to: THREAD,
    })?;
    i32::try_from(key).map_err(|_too_large| io::Error::from(io::ErrorKind::InvalidData))
}

fn is_absent(error: &io::Error) -> bool {
    let gone = [libc::ENOKEY, libc::EKEYEXPIRED, libc::EKEYREVOKED];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

fn c_string(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_nul| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_kept_replaced_and_forgotten() {
        let name = format!("muster-test-{}", std::process::id());
        assert!(find(&name).unwrap().is_none());
        put(&name, b"one", Duration::from_mins(1)).unwrap();
        put(&name, b"second", Duration::from_mins(1)).unwrap();
        // Another thread of the process possesses it as well.
        let other = name.clone();
        let found = std::thread::spawn(move || find(&other).unwrap().unwrap());
        assert_eq!(found.join().unwrap().as_slice(), b"second");
        prolong(&name, Duration::from_secs(30)).unwrap();
        remove(&name).unwrap();
        assert!(find(&name).unwrap().is_none());
        remove(&name).unwrap();
    }
}
