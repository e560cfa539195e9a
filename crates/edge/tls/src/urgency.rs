//! What a client says of its haste before any work was done for it.
//!
//! A server that is stormed lets connections wait as bare sockets, and has only their first message
//! to choose by: the ClientHello, which names the protocols that the client offers (ALPN, RFC 7301).
//! A client that cannot wait offers one more than it means. No server selects it: ours looks at it
//! before the handshake, and any other passes over what it does not know. It is not encrypted, so
//! whoever sits on the path learns that a node is in need, which its traffic tells as well.

use rustls::server::Acceptor;

/// The protocol that is offered and never spoken.
const NOW: &[u8] = b"muster-now";
/// gRPC alone is spoken.
const H2: &[u8] = b"h2";

/// How many bytes of a connection are enough to hear its urgency in: a ClientHello with a hybrid
/// key share takes some 1,500.
pub const HELLO_MAX: usize = 4096;

/// Whether a client can wait for its handshake. A hint: only the order depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// It holds what it needs for a while, or says nothing.
    #[default]
    CanWait,
    /// It, or a workload of it, is without a good identity.
    Now,
}

impl Urgency {
    /// What the first bytes of a connection say; `None` while they are not a whole ClientHello.
    /// What is none at all can wait: its handshake will fail.
    pub fn of_hello(mut first: &[u8]) -> Option<Self> {
        let mut hello = Acceptor::default();
        let whole = first.len() >= HELLO_MAX;
        while !first.is_empty() {
            match hello.read_tls(&mut first) {
                Ok(0) | Err(_) => return Some(Self::CanWait),
                Ok(_read) => {}
            }
            match hello.accept() {
                Ok(None) => {}
                Ok(Some(heard)) => {
                    let offers = heard.client_hello().alpn();
                    let now = offers.is_some_and(|mut all| all.any(|offer| offer == NOW));
                    return Some(if now { Self::Now } else { Self::CanWait });
                }
                Err(_not_a_hello) => return Some(Self::CanWait),
            }
        }
        whole.then_some(Self::CanWait)
    }

    /// What a client offers: HTTP/2, and its haste.
    pub(crate) fn offers(self) -> Vec<Vec<u8>> {
        match self {
            Self::CanWait => vec![H2.to_vec()],
            Self::Now => vec![H2.to_vec(), NOW.to_vec()],
        }
    }
}

/// What a server takes.
pub(crate) fn taken() -> Vec<Vec<u8>> {
    vec![H2.to_vec()]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

    use super::*;
    use crate::provider::{VERSIONS, provider};

    #[derive(Debug)]
    struct Nobody;

    impl ServerCertVerifier for Nobody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Err(Error::General("nobody is believed".into()))
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("nobody is believed".into()))
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("nobody is believed".into()))
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    fn hello(urgency: Urgency) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Nobody))
            .with_no_client_auth();
        let name = ServerName::try_from("server.example").unwrap();
        let mut client =
            ClientConnection::new_with_alpn(Arc::new(config), name, urgency.offers()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_client_is_heard_as_it_spoke() {
        for urgency in [Urgency::CanWait, Urgency::Now] {
            let bytes = hello(urgency);
            assert!(bytes.len() < HELLO_MAX, "{}", bytes.len());
            assert_eq!(Urgency::of_hello(&bytes), Some(urgency));
        }
    }

    #[test]
    fn half_a_hello_says_nothing_yet() {
        let bytes = hello(Urgency::Now);
        for end in 0..bytes.len() {
            assert_eq!(Urgency::of_hello(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn what_is_no_hello_can_wait() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x15, 3, 1, 0, 2, 1, 0],
            &[0xff; 64],
            &[0x16; HELLO_MAX],
        ] {
            assert_eq!(Urgency::of_hello(bytes), Some(Urgency::CanWait));
        }
        // A record that never ends is not waited for beyond what is looked at.
        let mut long = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
        long.resize(HELLO_MAX, 0);
        assert_eq!(Urgency::of_hello(&long), Some(Urgency::CanWait));
    }
}
