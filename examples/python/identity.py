"""TLS as this workload, whoever it is at the moment."""

from cryptography import x509
from OpenSSL import SSL, crypto
from spiffe import SpiffeId, X509Source


def context(source: X509Source, peer: SpiffeId) -> SSL.Context:
    """A TLS context with the newest SVID and bundle, good for one connection.

    Made anew for every connection, so it needs no care when an SVID or an authority changes.
    """
    current = source.get_x509_context()
    svid = current.default_svid
    tls = SSL.Context(SSL.TLS_METHOD)
    tls.use_certificate(crypto.X509.from_cryptography(svid.leaf))
    tls.use_privatekey(crypto.PKey.from_cryptography_key(svid.private_key))
    for certificate in svid.cert_chain[1:]:
        tls.add_extra_chain_cert(crypto.X509.from_cryptography(certificate))
    bundle = current.x509_bundle_set.get_bundle_for_trust_domain(peer.trust_domain)
    for authority in bundle.x509_authorities if bundle else ():
        tls.get_cert_store().add_cert(crypto.X509.from_cryptography(authority))

    def authorize(_connection, certificate, _error, depth, trusted):
        return bool(trusted) and (depth > 0 or peer_id(certificate) == peer)

    tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, authorize)
    return tls


def peer_id(certificate: crypto.X509) -> SpiffeId | None:
    """The SPIFFE ID in a certificate, if it has exactly one URI."""
    extensions = certificate.to_cryptography().extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeId(uris[0]) if len(uris) == 1 else None
