import io.grpc.Status;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.math.BigInteger;
import java.security.cert.X509Certificate;
import java.util.Date;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/** java-spiffe on a task's socket, which it found in SPIFFE_ENDPOINT_SOCKET. See ../README.md. */
final class OnTask {
    private static final String[] GIVEN = {
        "x509-svid", "x509-bundles", "jwt-svid", "jwt-bundles", "jwt-valid", "jwt-tampered"
    };
    private static final long FIRST_WITHIN_SECONDS = 60;
    private static final long WITHDRAWN_WITHIN_SECONDS = 60;

    /** Of the end of a stream that it opens again the library tells its log alone. */
    private static final Logger LOG = Logger.getLogger("io.spiffe.workloadapi.StreamObservers");

    private final BlockingQueue<Object> events = new LinkedBlockingQueue<>();
    private final BlockingQueue<Throwable> ends = new LinkedBlockingQueue<>();
    private final WorkloadApiClient api;
    private final String agent;
    private SpiffeId id;
    private Client client;
    private X509Certificate latest;

    OnTask(WorkloadApiClient api, String agent) {
        this.api = api;
        this.agent = agent;
    }

    void run(String[] checks) {
        String broken = null;
        try {
            watch();
        } catch (Exception | Error error) {
            broken = "no watch: " + error;
        }
        for (String check : checks) {
            String why = broken;
            Client.report(check, () -> {
                Client.require(why == null, why);
                return check(check);
            });
        }
    }

    private String check(String name) throws Exception {
        switch (name) {
            case "task-given":
                return given();
            case "task-rotated":
                return rotated();
            case "task-withdrawn":
                return withdrawn();
            default:
                throw new IllegalArgumentException("unknown check " + name);
        }
    }

    private void watch() throws Exception {
        LOG.addHandler(new Handler() {
            @Override
            public void publish(LogRecord record) {
                if (record.getThrown() != null) {
                    ends.add(record.getThrown());
                }
            }

            @Override
            public void flush() {}

            @Override
            public void close() {}
        });
        Client.watch(api, events);
        X509Context first = next(FIRST_WITHIN_SECONDS);
        id = first.getDefaultSvid().getSpiffeId();
        Client.require(id.toString().startsWith(agent + "/t/"), id + " is no task of " + agent);
        client = new Client(api, id);
        latest = client.verify(first).getLeaf();
    }

    private X509Context next(long seconds) throws Exception {
        Object event = events.poll(seconds, TimeUnit.SECONDS);
        Client.require(event != null, "the stream said nothing for " + seconds + " s; " + ends.peek());
        Client.require(event instanceof X509Context, "the stream broke: " + event);
        return (X509Context) event;
    }

    private String given() throws Exception {
        for (String check : GIVEN) {
            client.run(check);
        }
        return id + ", by X.509 and JWT";
    }

    private String rotated() throws Exception {
        long began = System.nanoTime();
        Set<BigInteger> serials = new HashSet<>(Set.of(latest.getSerialNumber()));
        while (serials.size() < 3) {
            X509Certificate leaf = client.verify(next(Client.ROTATION_WITHIN_SECONDS)).getLeaf();
            Client.require(new Date().before(latest.getNotAfter()), "the next serial came too late");
            latest = leaf;
            serials.add(leaf.getSerialNumber());
        }
        Client.require(ends.isEmpty(), "the stream was opened again: " + ends.peek());
        return serials.size() + " serials on one stream in "
                + TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - began) + " s, each in time";
    }

    /** Says that it watches, and sees the end: of the stream, and of every answer. */
    private String withdrawn() throws Exception {
        System.out.println("{\"watching\":" + Client.quote(id.toString()) + "}");
        System.out.flush();
        Throwable end = ends.poll(WITHDRAWN_WITHIN_SECONDS, TimeUnit.SECONDS);
        Client.require(end != null, "the stream did not end within " + WITHDRAWN_WITHIN_SECONDS + " s");
        Client.require(Client.code(end) == Status.Code.PERMISSION_DENIED, "the stream ended with " + end);

        Map<String, Client.Call<?>> calls = new LinkedHashMap<>();
        calls.put("X.509", api::fetchX509Context);
        calls.put("JWT", () -> api.fetchJwtSvid(Client.AUDIENCE));
        calls.put("bundles", api::fetchX509Bundles);
        Set<Status.Code> told = new TreeSet<>();
        for (Map.Entry<String, Client.Call<?>> call : calls.entrySet()) {
            Status.Code code = Client.code(call.getValue());
            Client.require(Set.of(Status.Code.PERMISSION_DENIED, Status.Code.UNAVAILABLE).contains(code),
                    "a new call for " + call.getKey() + " gets " + code);
            told.add(code);
        }
        return "the stream ended with PERMISSION_DENIED, new calls with " + told;
    }
}
