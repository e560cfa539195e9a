//! What a failed connection says about the two identities.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why a connection failed, as far as an identity is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The other side does not take our certificate because it has expired.
    OursExpired,
    /// The other side does not know who signed our certificate, or does not take it otherwise.
    OursUnknown,
    /// We do not know who signed the other side's certificate: its authority is not in our bundle.
    TheirsUnknown,
}

impl Rejected {
    /// Looks for the reason among the causes of an error.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref().and_then(Self::by) {
                return Some(found);
            }
            // The cause of an I/O error is within it.
            let within = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            if let Some(within) = within {
                let within: &(dyn Error + 'static) = within;
                if let Some(found) = Self::of(within) {
                    return Some(found);
                }
            }
            cause = error.source();
        }
        None
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "both enums grow with rustls; what is new says nothing about identities"
    )]
    fn by(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
                Some(Self::OursExpired)
            }
            rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
                | AlertDescription::AccessDenied,
            ) => Some(Self::OursUnknown),
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Some(Self::TheirsUnknown)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_however_deep_it_lies() {
        let check = |error: rustls::Error, expected| {
            let once = io::Error::new(io::ErrorKind::InvalidData, error);
            let twice = io::Error::other(once);
            assert_eq!(Rejected::of(&twice), expected);
        };
        let alert = rustls::Error::AlertReceived;
        check(
            alert(AlertDescription::CertificateExpired),
            Some(Rejected::OursExpired),
        );
        check(
            alert(AlertDescription::UnknownCA),
            Some(Rejected::OursUnknown),
        );
        check(alert(AlertDescription::InternalError), None);
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        check(unknown, Some(Rejected::TheirsUnknown));
        assert_eq!(
            Rejected::of(&io::Error::from(io::ErrorKind::TimedOut)),
            None
        );
    }
}
