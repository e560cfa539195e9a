//! The one type for bytes that must not be seen.

use std::fmt;

use zeroize::Zeroize;

/// Why secret bytes leave their [`Secret`]: every exit of key material names one of these, so that
/// one search finds them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Written to a file that only its owner can read.
    WriteToDisk,
    /// Handed to the workload whose key it is, over the Workload API or SDS.
    WorkloadApi,
    /// Handed to a broker or a delegate that may act for the workload whose key it is.
    OnBehalf,
    /// Handed to an operator who asked for a key to be minted.
    MintForOperator,
    /// Given to the TLS stack to prove our own identity.
    TlsHandshake,
    /// Parsed into a key that signs inside this process.
    Sign,
    /// Sealed for the process that follows this one on the same machine, or handed to it.
    Seal,
    /// Compared with, or hashed for comparison with, what the other side presents.
    Compare,
}

/// A secret: wiped on drop, never copied, compared, serialized or printed.
///
/// `Debug` prints the type only. There is no `Clone`: share it behind an `Arc`.
///
/// ```
/// use muster_crypto::{Purpose, Secret};
/// let secret = Secret::new(vec![1_u8]);
/// assert_eq!(secret.expose(Purpose::Compare), &[1]);
/// ```
///
/// What must not compile: a copy,
///
/// ```compile_fail,E0599
/// use muster_crypto::Secret;
/// let secret = Secret::new(vec![1_u8]);
/// let copy = secret.clone();
/// ```
///
/// and a comparison, whose time would tell something.
///
/// ```compile_fail,E0369
/// use muster_crypto::Secret;
/// let same = Secret::new(vec![1_u8]) == Secret::new(vec![1_u8]);
/// ```
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes custody of `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The secret itself, for the stated purpose.
    pub fn expose(&self, _purpose: Purpose) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{}>", std::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Probe(Arc<AtomicBool>);

    impl Zeroize for Probe {
        fn zeroize(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn is_wiped_on_drop() {
        let wiped = Arc::new(AtomicBool::new(false));
        drop(Secret::new(Probe(wiped.clone())));
        assert!(wiped.load(Ordering::SeqCst));
    }

    #[test]
    fn debug_shows_the_type_only() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?}"), "Secret<alloc::string::String>");
        assert_eq!(secret.expose(Purpose::Compare), "hunter2");
    }
}
