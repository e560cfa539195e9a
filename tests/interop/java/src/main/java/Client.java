import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.Signature;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.logging.LogManager;

/** java-spiffe against a Workload API: one JSON line a check. See ../README.md. */
public final class Client {
    static final String AUDIENCE = "interop";
    private static final long DENIED_SILENCE_SECONDS = 12;
    static final long ROTATION_WITHIN_SECONDS = 180;

    private final WorkloadApiClient api;
    private final SpiffeId id;

    Client(WorkloadApiClient api, SpiffeId id) {
        this.api = api;
        this.id = id;
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 3 || !Set.of("checks", "task").contains(arguments[0])) {
            System.err.println("usage: Client (checks SOCKET SPIFFE_ID CHECK... | task AGENT_ID CHECK...)");
            System.exit(2);
        }
        LogManager.getLogManager().reset();
        if (arguments[0].equals("task")) {
            try (WorkloadApiClient api = DefaultWorkloadApiClient.newClient()) {
                new OnTask(api, arguments[1]).run(Arrays.copyOfRange(arguments, 2, arguments.length));
            }
            System.exit(0);
        }
        DefaultWorkloadApiClient.ClientOptions options = DefaultWorkloadApiClient.ClientOptions.builder()
                .spiffeSocketPath("unix:" + arguments[1])
                .build();
        try (WorkloadApiClient api = DefaultWorkloadApiClient.newClient(options)) {
            Client client = new Client(api, SpiffeId.parse(arguments[2]));
            for (String check : Arrays.copyOfRange(arguments, 3, arguments.length)) {
                client.report(check);
            }
        }
        System.exit(0);
    }

    private void report(String check) {
        report(check, () -> run(check));
    }

    /** What finds something out. */
    interface Call<T> {
        T make() throws Exception;
    }

    static void report(String check, Call<String> run) {
        boolean ok;
        String detail;
        try {
            detail = run.make();
            ok = true;
        } catch (Exception | Error error) {
            detail = error + (error.getCause() == null ? "" : ": " + error.getCause());
            ok = false;
        }
        String version = System.getProperty("client.version", "unknown");
        System.out.printf("{\"client\":\"java-spiffe\",\"version\":%s,\"check\":%s,\"ok\":%s,\"detail\":%s}%n",
                quote(version), quote(check), ok, quote(detail));
        System.out.flush();
    }

    static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char letter : text.toCharArray()) {
            if (letter == '"' || letter == '\\' || letter < ' ') {
                quoted.append(String.format("\\u%04x", (int) letter));
            } else {
                quoted.append(letter);
            }
        }
        return quoted.append('"').toString();
    }

    String run(String check) throws Exception {
        switch (check) {
            case "x509-svid":
                return x509Svid();
            case "x509-bundles":
                return x509Bundles();
            case "jwt-svid":
                return jwtSvid();
            case "jwt-bundles":
                return jwtBundles();
            case "jwt-valid":
                return jwtValid();
            case "jwt-tampered":
                return jwtTampered();
            case "rotation":
                return rotation();
            case "denied":
                return denied();
            default:
                throw new IllegalArgumentException("unknown check " + check);
        }
    }

    static void require(boolean holds, String text) {
        if (!holds) {
            throw new AssertionError(text);
        }
    }

    // X.509

    /** Proves one update: key and certificate match, and the chain leads to the bundle beside it. */
    X509Svid verify(X509Context update) throws Exception {
        X509Svid svid = update.getDefaultSvid();
        require(svid.getSpiffeId().equals(id), "the SVID is for " + svid.getSpiffeId() + ", not for " + id);
        svid.getLeaf().checkValidity();
        X509SvidValidator.verifyChain(svid.getChain(), update.getX509BundleSet());
        X509SvidValidator.verifySpiffeId(svid.getLeaf(), () -> Set.of(id));

        String algorithm = svid.getPrivateKey().getAlgorithm().startsWith("EC") ? "SHA256withECDSA" : "SHA256withRSA";
        byte[] message = "proof of possession".getBytes(StandardCharsets.UTF_8);
        Signature signer = Signature.getInstance(algorithm);
        signer.initSign(svid.getPrivateKey());
        signer.update(message);
        Signature verifier = Signature.getInstance(algorithm);
        verifier.initVerify(svid.getLeaf().getPublicKey());
        verifier.update(message);
        require(verifier.verify(signer.sign()), "the key does not belong to the certificate");
        return svid;
    }

    private String x509Svid() throws Exception {
        X509Svid svid = verify(api.fetchX509Context());
        return svid.getSpiffeId() + ", " + svid.getChain().size() + " certificate(s), chain verified";
    }

    private String x509Bundles() throws Exception {
        int authorities = api.fetchX509Bundles().getBundleForTrustDomain(id.getTrustDomain()).getX509Authorities().size();
        require(authorities > 0, "the bundle of " + id.getTrustDomain() + " is empty");
        return authorities + " authorities";
    }

    private String rotation() throws Exception {
        BlockingQueue<Object> updates = new LinkedBlockingQueue<>();
        long began = System.nanoTime();
        watch(updates);
        Set<BigInteger> serials = new HashSet<>();
        while (serials.size() < 3) {
            long left = TimeUnit.SECONDS.toNanos(ROTATION_WITHIN_SECONDS) - (System.nanoTime() - began);
            Object update = updates.poll(left, TimeUnit.NANOSECONDS);
            require(update != null, serials.size() + " serial(s) in " + ROTATION_WITHIN_SECONDS + " s");
            require(update instanceof X509Context, "the stream broke: " + update);
            serials.add(verify((X509Context) update).getLeaf().getSerialNumber());
        }
        return "3 serials on one stream in " + TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - began) + " s";
    }

    private void watch(BlockingQueue<Object> events) {
        watch(api, events);
    }

    /** Puts every update, and every error that the library passes on, into the queue. */
    static void watch(WorkloadApiClient api, BlockingQueue<Object> events) {
        api.watchX509Context(new Watcher<X509Context>() {
            @Override
            public void onUpdate(X509Context update) {
                events.add(update);
            }

            @Override
            public void onError(Throwable error) {
                events.add(error);
            }
        });
    }

    // JWT

    private String jwtSvid() throws Exception {
        JwtSvid svid = api.fetchJwtSvid(AUDIENCE, "second");
        require(svid.getSpiffeId().equals(id), "the token is for " + svid.getSpiffeId() + ", not for " + id);
        return svid.getSpiffeId() + " for " + svid.getAudience();
    }

    private String jwtBundles() throws Exception {
        int keys = api.fetchJwtBundles().getBundleForTrustDomain(id.getTrustDomain()).getJwtAuthorities().size();
        require(keys > 0, "the key set of " + id.getTrustDomain() + " is empty");
        return keys + " keys";
    }

    private String jwtValid() throws Exception {
        String token = api.fetchJwtSvid(AUDIENCE).getToken();
        JwtBundleSet bundles = api.fetchJwtBundles();
        JwtSvid remote = api.validateJwtSvid(token, AUDIENCE);
        JwtSvid local = JwtSvid.parseAndValidate(token, bundles, Set.of(AUDIENCE));
        require(remote.getSpiffeId().equals(id) && local.getSpiffeId().equals(id),
                "validated as " + remote.getSpiffeId() + " and " + local.getSpiffeId() + ", not as " + id);
        return "accepted by the Workload API and by the library";
    }

    private String jwtTampered() throws Exception {
        String token = api.fetchJwtSvid(AUDIENCE).getToken();
        JwtBundleSet bundles = api.fetchJwtBundles();
        for (Map.Entry<String, String> forgery : tamper(token).entrySet()) {
            Status.Code answer = code(() -> api.validateJwtSvid(forgery.getValue(), AUDIENCE));
            require(answer == Status.Code.INVALID_ARGUMENT,
                    "the Workload API answers " + forgery.getKey() + " by " + answer + ", not INVALID_ARGUMENT");
            require(fails(() -> JwtSvid.parseAndValidate(forgery.getValue(), bundles, Set.of(AUDIENCE))),
                    "the library accepts " + forgery.getKey());
        }
        Status.Code answer = code(() -> api.validateJwtSvid(token, "someone else"));
        require(answer == Status.Code.INVALID_ARGUMENT, "the Workload API answers another audience by " + answer);
        return "another subject, another signature and another audience refused";
    }

    /** A token with another subject, and one with another signature. */
    private Map<String, String> tamper(String token) {
        String[] parts = token.split("\\.");
        Base64.Encoder encoder = Base64.getUrlEncoder().withoutPadding();
        String claims = new String(Base64.getUrlDecoder().decode(parts[1]), StandardCharsets.UTF_8);
        String forged = claims.replace(id.toString(), id + "-forged");
        require(!forged.equals(claims), "the token does not name " + id);
        byte[] signature = Base64.getUrlDecoder().decode(parts[2]);
        signature[signature.length / 2] ^= 1;

        Map<String, String> forgeries = new LinkedHashMap<>();
        forgeries.put("another subject",
                parts[0] + "." + encoder.encodeToString(forged.getBytes(StandardCharsets.UTF_8)) + "." + parts[2]);
        forgeries.put("another signature", parts[0] + "." + parts[1] + "." + encoder.encodeToString(signature));
        return forgeries;
    }

    // Denial

    /** An unregistered caller gets PermissionDenied; a watch asks again and reports nothing. */
    private String denied() throws Exception {
        Status.Code x509 = code(api::fetchX509Context);
        require(x509 == Status.Code.PERMISSION_DENIED, "fetchX509Context: " + x509);
        Status.Code jwt = code(() -> api.fetchJwtSvid(AUDIENCE));
        require(jwt == Status.Code.PERMISSION_DENIED, "fetchJwtSvid: " + jwt);

        BlockingQueue<Object> events = new LinkedBlockingQueue<>();
        watch(events);
        Object first = events.poll(DENIED_SILENCE_SECONDS, TimeUnit.SECONDS);
        require(first == null, "the watch of an unregistered caller answered " + first);
        return "PERMISSION_DENIED; the watch asks again in silence";
    }

    private static boolean fails(Call<?> call) {
        try {
            call.make();
            return false;
        } catch (Exception refused) {
            return true;
        }
    }

    /** The gRPC status with which a call fails; OK when it does not. */
    static Status.Code code(Call<?> call) {
        try {
            call.make();
            return Status.Code.OK;
        } catch (Exception error) {
            return code((Throwable) error);
        }
    }

    static Status.Code code(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof StatusRuntimeException) {
                return ((StatusRuntimeException) cause).getStatus().getCode();
            }
        }
        throw new AssertionError("not a gRPC status: " + error);
    }
}
