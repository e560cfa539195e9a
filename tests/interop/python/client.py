"""py-spiffe against a Workload API: one JSON line a check. See ../README.md."""

import base64
import datetime
import importlib.metadata
import json
import logging
import queue
import socket
import sys
import threading
import time

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from OpenSSL import SSL
from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import create_ssl_context

CLIENT = "py-spiffe"
AUDIENCE = "interop"
GREETING = b"muster interop\n"
ANSWER_WITHIN = 60.0
ROTATION_WITHIN = 180.0
DIAL_WITHIN = 240.0
PACE = 0.02
WITHDRAWN_WITHIN = 60.0
WANTED_SVIDS = 3
WANTED_ISSUERS = 2
# A dialer goes on for so long after it has seen enough, so that the listener has too.
ENCORE = 50


class Failure(Exception):
    """A check that does not hold."""


def report(check, run):
    """Runs one check and prints its line."""
    try:
        ok, detail = True, run()
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the result
        ok, detail = False, f"{type(error).__name__}: {error}"
    line = {
        "client": CLIENT,
        "version": importlib.metadata.version("spiffe"),
        "check": check,
        "ok": ok,
        "detail": detail,
    }
    print(json.dumps(line), flush=True)


def require(condition, text):
    if not condition:
        raise Failure(text)


def status_of(call):
    """The gRPC status with which a call fails; OK when it does not."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        cause = error
        while cause is not None and not isinstance(cause, grpc.RpcError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        return cause.code()
    return grpc.StatusCode.OK


# X.509


def verify(context, spiffe_id):
    """Proves one update: the leaf is signed by an authority of the bundle that came with it."""
    svid = context.default_svid
    require(svid.spiffe_id == spiffe_id, f"the SVID is for {svid.spiffe_id}, not for {spiffe_id}")
    require(
        svid.private_key.public_key() == svid.leaf.public_key(),
        "the key does not belong to the certificate",
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    require(
        svid.leaf.not_valid_before_utc <= now < svid.leaf.not_valid_after_utc,
        f"at {now} the SVID is not valid",
    )
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(spiffe_id.trust_domain)
    require(bundle is not None, f"no bundle for {spiffe_id.trust_domain}")
    chain = svid.cert_chain
    for certificate, issuer in zip(chain, chain[1:]):
        certificate.verify_directly_issued_by(issuer)
    for authority in bundle.x509_authorities:
        try:
            chain[-1].verify_directly_issued_by(authority)
            return svid
        except (ValueError, InvalidSignature):
            continue
    raise Failure("no authority of the bundle signed the chain")


def x509_svid(api, spiffe_id):
    svid = verify(api.fetch_x509_context(ANSWER_WITHIN), spiffe_id)
    return f"{svid.spiffe_id}, {len(svid.cert_chain)} certificate(s), chain verified"


def x509_bundles(api, spiffe_id):
    bundle = api.fetch_x509_bundles(ANSWER_WITHIN).get_bundle_for_trust_domain(spiffe_id.trust_domain)
    require(bundle and bundle.x509_authorities, f"no bundle for {spiffe_id.trust_domain}")
    return f"{len(bundle.x509_authorities)} authorities"


def rotation(api, spiffe_id):
    updates = queue.Queue()
    began = time.monotonic()
    watch = api.stream_x509_contexts(updates.put, updates.put, retry_connect=False)
    serials = set()
    try:
        while len(serials) < 3:
            try:
                update = updates.get(timeout=max(0.1, began + ROTATION_WITHIN - time.monotonic()))
            except queue.Empty:
                raise Failure(f"{len(serials)} serial(s) in {ROTATION_WITHIN} s") from None
            if isinstance(update, Exception):
                raise Failure(f"the stream broke: {update}")
            serials.add(verify(update, spiffe_id).leaf.serial_number)
    finally:
        watch.cancel()
    return f"3 serials on one stream in {time.monotonic() - began:.0f} s"


# A task's socket


class Watch:
    """One stream of the task's X.509 contexts, from its first to its end."""

    def __init__(self, api, agent):
        self._api, self._events = api, queue.Queue()
        api.stream_x509_contexts(self._events.put, self._events.put, retry_connect=False)
        first = self._next(ANSWER_WITHIN)
        self.id = first.default_svid.spiffe_id
        require(str(self.id).startswith(f"{agent}/t/"), f"{self.id} is no task of {agent}")
        self._latest = verify(first, self.id).leaf

    def _next(self, within):
        try:
            event = self._events.get(timeout=within)
        except queue.Empty:
            raise Failure(f"the stream said nothing for {within} s") from None
        if isinstance(event, Exception):
            raise Failure(f"the stream broke: {event}")
        return event

    def given(self):
        for check in (x509_svid, x509_bundles, jwt_svid, jwt_bundles, jwt_valid, jwt_tampered):
            check(self._api, self.id)
        return f"{self.id}, by X.509 and JWT"

    def rotated(self):
        began, serials = time.monotonic(), {self._latest.serial_number}
        while len(serials) < WANTED_SVIDS:
            leaf = verify(self._next(ROTATION_WITHIN), self.id).leaf
            now = datetime.datetime.now(datetime.timezone.utc)
            require(now < self._latest.not_valid_after_utc, "the next serial came too late")
            self._latest = leaf
            serials.add(leaf.serial_number)
        return f"{len(serials)} serials on one stream in {time.monotonic() - began:.0f} s, each in time"

    def withdrawn(self):
        """Says that it watches, and sees the end: of the stream, and of every answer."""
        print(json.dumps({"watching": str(self.id)}), flush=True)
        deadline = time.monotonic() + WITHDRAWN_WITHIN
        while True:
            try:
                event = self._events.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise Failure(f"the stream did not end within {WITHDRAWN_WITHIN} s") from None
            if isinstance(event, Exception):
                break
        require("PERMISSION_DENIED" in str(event), f"the stream ended with {event}")
        calls = {
            "X.509": lambda: self._api.fetch_x509_svid(ANSWER_WITHIN),
            "JWT": lambda: self._api.fetch_jwt_svid({AUDIENCE}, timeout=ANSWER_WITHIN),
            "bundles": lambda: self._api.fetch_x509_bundles(ANSWER_WITHIN),
        }
        codes = {what: status_of(call) for what, call in calls.items()}
        for what, code in codes.items():
            require(
                code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE),
                f"a new call for {what} gets {code}",
            )
        told = sorted({code.name for code in codes.values()})
        return f"the stream ended with PERMISSION_DENIED, new calls with {', '.join(told)}"


def on_task(agent, checks):
    """On the socket in SPIFFE_ENDPOINT_SOCKET, which is a task's."""
    with WorkloadApiClient() as api:
        try:
            watch = Watch(api, agent)
        except Exception as error:  # noqa: BLE001 - nothing else can be checked then
            for check in checks:
                report(check, lambda: require(False, f"no watch: {error}"))
            return
        run = {
            "task-given": watch.given,
            "task-rotated": watch.rotated,
            "task-withdrawn": watch.withdrawn,
        }
        for check in checks:
            report(check, run[check])


# JWT


def jwt_svid(api, spiffe_id):
    svid = api.fetch_jwt_svid({AUDIENCE, "second"}, timeout=ANSWER_WITHIN)
    require(svid.spiffe_id == spiffe_id, f"the token is for {svid.spiffe_id}, not for {spiffe_id}")
    return f"{svid.spiffe_id} for {sorted(svid.audience)}"


def jwt_bundles(api, spiffe_id):
    bundle = api.fetch_jwt_bundles(ANSWER_WITHIN).get_bundle_for_trust_domain(spiffe_id.trust_domain)
    require(bundle and bundle.jwt_authorities, f"no key set for {spiffe_id.trust_domain}")
    return f"{len(bundle.jwt_authorities)} keys"


def token_and_bundle(api, spiffe_id):
    token = api.fetch_jwt_svid({AUDIENCE}, timeout=ANSWER_WITHIN).token
    bundle = api.fetch_jwt_bundles(ANSWER_WITHIN).get_bundle_for_trust_domain(spiffe_id.trust_domain)
    return token, bundle


def jwt_valid(api, spiffe_id):
    token, bundle = token_and_bundle(api, spiffe_id)
    remote = api.validate_jwt_svid(token, AUDIENCE, timeout=ANSWER_WITHIN)
    local = JwtSvid.parse_and_validate(token, bundle, {AUDIENCE})
    require(
        remote.spiffe_id == spiffe_id == local.spiffe_id,
        f"validated as {remote.spiffe_id} and {local.spiffe_id}, not as {spiffe_id}",
    )
    return "accepted by the Workload API and by the library"


def tamper(token):
    """A token with another subject, and one with another signature."""
    header, payload, signature = token.split(".")

    def decode(part):
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = json.loads(decode(payload))
    claims["sub"] += "-forged"
    flipped = bytearray(decode(signature))
    flipped[len(flipped) // 2] ^= 1
    return {
        "another subject": f"{header}.{encode(json.dumps(claims).encode())}.{signature}",
        "another signature": f"{header}.{payload}.{encode(bytes(flipped))}",
    }


def jwt_tampered(api, spiffe_id):
    token, bundle = token_and_bundle(api, spiffe_id)
    cases = {what: (forged, AUDIENCE) for what, forged in tamper(token).items()}
    cases["another audience"] = (token, "someone else")
    for what, (candidate, audience) in cases.items():
        code = status_of(lambda: api.validate_jwt_svid(candidate, audience, timeout=ANSWER_WITHIN))
        require(
            code == grpc.StatusCode.INVALID_ARGUMENT,
            f"the Workload API answers {what} by {code}, not INVALID_ARGUMENT",
        )
        try:
            JwtSvid.parse_and_validate(candidate, bundle, {audience})
        except Exception:  # noqa: BLE001 - refused, as it must be
            continue
        raise Failure(f"the library accepts {what}")
    return "another subject, another signature and another audience refused"


# Denial


def denied(api, _spiffe_id):
    """An unregistered caller gets PermissionDenied; a source keeps asking and stays without SVID."""
    code = status_of(lambda: api.fetch_x509_svid(ANSWER_WITHIN))
    require(code == grpc.StatusCode.PERMISSION_DENIED, f"fetch_x509_svid: {code}")
    code = status_of(lambda: api.fetch_jwt_svid({AUDIENCE}, timeout=ANSWER_WITHIN))
    require(code == grpc.StatusCode.PERMISSION_DENIED, f"fetch_jwt_svid: {code}")

    answers = queue.Queue()
    watch = api.stream_x509_contexts(answers.put, answers.put)
    try:
        answer = answers.get(timeout=12.0)
    except queue.Empty:
        return "PERMISSION_DENIED; the watch asks again in silence"
    finally:
        watch.cancel()
    raise Failure(f"the watch of an unregistered caller answered {answer!r}")


# Mutual TLS


class Tally:
    """Counts handshakes, and whom they were with."""

    def __init__(self):
        self._lock = threading.Lock()
        self.handshakes = 0
        self.failures = []
        self.parties = {"own": (set(), set()), "peer": (set(), set())}

    def see(self, side, certificate):
        identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        with self._lock:
            serials, issuers = self.parties[side]
            serials.add(certificate.serial_number)
            issuers.add(identifier.value.key_identifier)

    def handshake(self):
        with self._lock:
            self.handshakes += 1

    def fail(self, error):
        with self._lock:
            self.failures.append(f"{type(error).__name__}: {error}")

    def enough(self):
        return all(
            len(serials) >= WANTED_SVIDS and len(issuers) >= WANTED_ISSUERS
            for serials, issuers in self.parties.values()
        )

    def summary(self):
        own, peer = self.parties["own"], self.parties["peer"]
        text = (
            f"{self.handshakes} handshakes, {len(self.failures)} failed; "
            f"own: {len(own[0])} SVIDs of {len(own[1])} authorities; "
            f"peer: {len(peer[0])} of {len(peer[1])}"
        )
        require(not self.failures, f"{text}; first failure: {(self.failures or [None])[0]}")
        require(self.handshakes, "no handshake took place")
        require(self.enough(), f"{text}; too few rotations")
        return text


class Contexts:
    """A TLS context of spiffe-tls per update of the source.

    spiffe-tls also changes a living context on each update, certificate first and key second; a
    connection that is made in between would have neither. Here no connection is ever made from a
    context that may still change: the lock separates the two, and our callback, which was
    subscribed first, replaces the context before spiffe-tls touches it.
    """

    def __init__(self, method, source, peer):
        self._lock = threading.Lock()
        self._context = None
        self._method, self._source, self._peer = method, source, peer
        source.subscribe_for_updates(self._renew)
        self._renew()

    def _renew(self):
        fresh = create_ssl_context(self._method, self._source, self._authorized)
        with self._lock:
            self._context = fresh

    def _authorized(self, certificate):
        names = certificate.to_cryptography().extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(self._peer)]

    def wrap(self, plain):
        with self._lock:
            return SSL.Connection(self._context, plain)


def listen(source, peer):
    """Greets every peer until standard input ends."""
    contexts = Contexts(SSL.TLS_SERVER_METHOD, source, peer)
    tally = Tally()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    host, port = listener.getsockname()
    print(json.dumps({"listening": f"{host}:{port}"}), flush=True)

    def serve(plain):
        plain.settimeout(None)
        connection = contexts.wrap(plain)
        try:
            connection.set_accept_state()
            connection.do_handshake()
            connection.sendall(GREETING)
            tally.see("peer", connection.get_peer_certificate().to_cryptography())
            tally.see("own", source.get_x509_context().default_svid.leaf)
            tally.handshake()
            connection.shutdown()
        except Exception as error:  # noqa: BLE001 - counted
            tally.fail(error)
        finally:
            connection.close()

    def accept():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    return tally.summary()


def dial(source, peer, address):
    """Makes one new connection after another until both sides have rotated enough."""
    contexts = Contexts(SSL.TLS_CLIENT_METHOD, source, peer)
    tally = Tally()
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + DIAL_WITHIN
    left = ENCORE
    while left > 0 and time.monotonic() < deadline:
        try:
            plain = socket.create_connection((host, int(port)), timeout=10)
            plain.settimeout(None)
            connection = contexts.wrap(plain)
            try:
                connection.set_connect_state()
                connection.do_handshake()
                # Only a greeting that arrives shows that the listener accepts us too.
                line = connection.recv(64)
                require(line == GREETING, f"the listener said {line!r}")
                tally.see("peer", connection.get_peer_certificate().to_cryptography())
                tally.see("own", source.get_x509_context().default_svid.leaf)
                tally.handshake()
            finally:
                connection.close()
        except Exception as error:  # noqa: BLE001 - counted
            tally.fail(error)
        left -= tally.enough()
        time.sleep(PACE)
    return tally.summary()


CHECKS = {
    "x509-svid": x509_svid,
    "x509-bundles": x509_bundles,
    "jwt-svid": jwt_svid,
    "jwt-bundles": jwt_bundles,
    "jwt-valid": jwt_valid,
    "jwt-tampered": jwt_tampered,
    "rotation": rotation,
    "denied": denied,
}


def main(arguments):
    logging.disable(logging.CRITICAL)
    if arguments[0] == "task":
        on_task(arguments[1], arguments[2:])
        return
    command, path, name, *rest = arguments
    spiffe_id = SpiffeId(name)
    if command == "checks":
        with WorkloadApiClient(f"unix:{path}") as api:
            for check in rest:
                report(check, lambda: CHECKS[check](api, spiffe_id))
        return
    with X509Source(socket_path=f"unix:{path}") as source:
        if command == "listen":
            report("mtls-listen", lambda: listen(source, spiffe_id))
        else:
            report("mtls-dial", lambda: dial(source, spiffe_id, rest[0]))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: client.py (checks SOCKET SPIFFE_ID CHECK... | task AGENT_ID CHECK... | listen SOCKET PEER_ID | dial SOCKET PEER_ID ADDRESS)")
    main(sys.argv[1:])
