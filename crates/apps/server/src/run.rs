//! Composition: from a configuration to a serving server, and down again.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use muster_attest::node::plugin::PluginServer;
use muster_attest::plugin::PluginOptions;
use muster_keys::{DiskKeys, MemoryKeys};
use muster_model::TrustDomain;
use muster_peer::harden;
use muster_peer::{Incoming, ListenOptions, Listener};
use muster_plugin::keys::KeyManager;
use muster_plugin::node::ServerNodeAttestor;
use muster_proto::muster::agent::v1::policies_server::PoliciesServer;
use muster_proto::muster::agent::v1::registry_server::RegistryServer;
use muster_proto::muster::agent::v1::rules_server::RulesServer;
use muster_proto::muster::agent::v1::sightings_server::SightingsServer;
use muster_proto::muster::agent::v1::task_ledger_server::TaskLedgerServer;
use muster_proto::muster::node::v1::derived_svid_server::DerivedSvidServer;
use muster_proto::muster::node::v1::node_attestations_server::NodeAttestationsServer;
use muster_proto::muster::node::v1::node_refusals_server::NodeRefusalsServer;
use muster_proto::muster::node::v1::node_sightings_server::NodeSightingsServer;
use muster_proto::muster::node::v1::node_tasks_server::NodeTasksServer;
use muster_proto::muster::node::v1::node_view_server::NodeViewServer;
use muster_proto::muster::server::admin::v1::audit_server::AuditServer;
use muster_proto::muster::server::admin::v1::server_admin_server::ServerAdminServer;
use muster_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use muster_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use muster_proto::spire::api::server::debug::v1::debug_server::DebugServer;
use muster_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use muster_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use muster_proto::spire::api::server::logger::v1::logger_server::LoggerServer;
use muster_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use muster_roll::Roll;
use muster_rt::lifecycle::{self, Ready, Shutdown, Supervisor};
use muster_rt::metrics::Exporter;
use muster_rt::telemetry::{self, LevelControl};
use muster_rt::{Clock, SystemClock, files};
use muster_store::Store;
use muster_store_sqlite::SqliteStore;
use muster_tls::{Acceptor, Identity};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::admission::Admission;
use crate::api::admin::ServerAdminService;
use crate::api::agent::AgentService;
use crate::api::audit::AuditService;
use crate::api::bundle::BundleService;
use crate::api::debug::DebugService;
use crate::api::derived::DerivedSvidService;
use crate::api::entry::EntryService;
use crate::api::local_authority::LocalAuthorityService;
use crate::api::logger::LoggerService;
use crate::api::node_attestations::NodeAttestationsService;
use crate::api::node_refusals::NodeRefusalsService;
use crate::api::node_reports::Told;
use crate::api::node_tasks::NodeTasksService;
use crate::api::node_view::NodeViewService;
use crate::api::policies::PoliciesService;
use crate::api::registry::RegistryService;
use crate::api::rules::RulesService;
use crate::api::sightings::{NodeSightingsService, SightingsService};
use crate::api::svid::SvidService;
use crate::api::task_ledger::TaskLedgerService;
use crate::api::unknown::told_apart;
use crate::audit_log;
use crate::authority::{Authorities, Desk};
use crate::config::{Config, KeysConfig};
use crate::crowd::Crowd;
use crate::derived::Names;
use crate::holdings::{self, Holdings};
use crate::policies::{self, Policies};
use crate::refusals::{self, Refusals};
use crate::server::Server;
use crate::signer::Signer;
use crate::writer::{RollHandle, RollWriter};
use crate::{agents, connections, listen, metrics, prune, server_svid, sightings, tasks};

/// How long requests that are under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted; the kernel has a bound of its own, usually 4096.
const BACKLOG: u32 = 16_384;
/// The folder in `data_dir` where the plugins that the server starts have their sockets.
const PLUGINS: &str = "plugins";

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
struct StartError {
    what: &'static str,
    cause: String,
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |cause| StartError {
        what,
        cause: cause.to_string(),
    }
}

/// Reads the configuration, starts logging, serves until a signal; the exit code tells how it went.
///
/// Starts the runtime itself: what the daemon gives up binds the threads that start afterwards.
pub fn run(config_path: &Path) -> ExitCode {
    let config = match Config::read(config_path) {
        Ok(config) => config,
        Err(faults) => return fail(&faults),
    };
    let level = match telemetry::start(config.log) {
        Ok(level) => level,
        Err(error) => return fail(&error),
    };
    if let Err(error) = muster_peer::process::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files was left as it is");
    }
    if let Err(error) = give_up(&config) {
        return fail(&error);
    }
    lifecycle::block_on(run_hardened(config, level))
}

async fn run_hardened(config: Config, level: LevelControl) -> ExitCode {
    match serve(config, level).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Says on standard error why the program ends before logging could start.
fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("muster-server: {why}");
    ExitCode::FAILURE
}

async fn serve(config: Config, level: LevelControl) -> Result<ExitCode, StartError> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let shutdown = Shutdown::on_signals().map_err(failed("cannot handle signals"))?;
    let ready = Ready::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());

    let keys = open_keys(&config.keys).await?;
    let (store, roll) = open_roll(&config).await?;
    let (publisher, audit) = audit_log::open(&store).await.map_err(failed("audit log"))?;
    let (writer, handle) = RollWriter::new(Arc::clone(&store), roll, publisher);

    let policies = Policies::open(Arc::clone(&store), &handle.snapshot(), config.policy)
        .await
        .map_err(failed("policies"))?;
    let ((refusals, notes), (desk, orders)) = (Refusals::new(), Desk::new());
    let server = Arc::new(Server {
        trust_domain: config.trust_domain.clone(),
        clock: Arc::clone(&clock),
        roll: handle.clone(),
        audit,
        holdings: Holdings::default(),
        signer: signer(&config, &keys),
        authorities: desk,
        own_authority: Notify::new(),
        own_svid: ArcSwapOption::empty(),
        authority_ttl: config.authority.ttl,
        wit: config.wit.enabled,
        admission: Admission::new(),
        crowd: Crowd::default(),
        names: Names::default(),
        policies,
        agents: config.agents,
        tasks: config.tasks,
        sightings: config.sightings,
        lifetimes: config.svid,
        admin_ids: config.admin_ids.clone(),
        node_attestors: node_attestors(&config)?,
        renew_grace: config.node.renew_grace,
        refusals,
        told: Told::default(),
        shutdown: shutdown.clone(),
    });

    // Whoever serves holds a clone of `serving`; the writer ends when all have let go.
    let (serving, all_served) = mpsc::channel::<()>(1);
    let mut supervisor = Supervisor::new(shutdown.clone(), ready.clone(), DRAIN);
    let end = shutdown.clone();
    supervisor.essential("roll writer", write_until(writer, end, all_served));

    let mut authorities = Authorities::load(&server, keys, config.authority.clone())
        .await
        .map_err(failed("authorities"))?;
    authorities
        .reconcile()
        .await
        .map_err(failed("authorities"))?;
    let identity = Identity::none();
    let key_type = config.authority.x509_key_type;
    let own_svid = server_svid::renew(&server, &identity, key_type)
        .await
        .map_err(failed("server SVID"))?;

    let Sockets { tcp, admin } = bind(&config)?;
    let address = tcp.local_addr().map_err(failed("API port"))?;
    let acceptor = acceptor(&server, &identity)?;

    let tcp_ready = ready.expect("API port");
    let (alive, end) = (serving.clone(), shutdown.clone());
    let routes = told_apart(api(&server));
    let incoming = incoming(&server, tcp, acceptor);
    supervisor.essential("API port", async move {
        let _alive = alive;
        tcp_ready.declare();
        connections::serve(incoming, routes, end).await;
        Ok::<_, Infallible>(())
    });
    let socket_ready = ready.expect("admin socket");
    let (alive, end) = (serving.clone(), shutdown.clone());
    let routes = told_apart(admin_api(&server, level).await?);
    supervisor.essential("admin socket", async move {
        let _alive = alive;
        socket_ready.declare();
        connections::serve(admin, routes, end).await;
        Ok::<_, Infallible>(())
    });
    serve_metrics(&config, &handle, &mut supervisor, &shutdown).await?;
    let renewal = server_svid::run(Arc::clone(&server), identity, key_type, own_svid);
    let periodic = [
        ("authorities", Box::pin(authorities.run(orders)) as Work),
        ("server SVID", Box::pin(renewal)),
        ("upkeep of the roll", upkeep(&server, store)),
        ("refusals", Box::pin(refusals::keep(notes, handle))),
        ("holdings", Box::pin(holdings::keep(Arc::clone(&server)))),
    ];
    for (name, work) in periodic {
        supervisor.essential(name, until_end(&shutdown, work));
    }
    drop((serving, server));

    announce(&config, address);
    Ok(supervisor.run().await.exit_code())
}

fn announce(config: &Config, address: SocketAddr) {
    tracing::info!(
        trust_domain = %config.trust_domain, %address, admin_socket = %config.admin_socket.display(), "serving"
    );
}

/// Writes until the shutdown has begun and whoever serves has let go.
async fn write_until(
    writer: RollWriter,
    end: Shutdown,
    mut all_served: mpsc::Receiver<()>,
) -> Result<(), StartError> {
    let stop = async move {
        end.begun().await;
        while all_served.recv().await.is_some() {}
    };
    writer.run(stop).await;
    Ok(())
}

async fn serve_metrics(
    config: &Config,
    roll: &RollHandle,
    supervisor: &mut Supervisor,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    if let Some(address) = config.metrics.listen {
        let exporter = Exporter::bind(address, metrics::gauges(roll.clone()))
            .await
            .map_err(failed("metrics"))?;
        supervisor.essential("metrics", exporter.run(shutdown.clone()));
    }
    Ok(())
}

/// The programs that attest nodes; those that the server runs are started.
fn node_attestors(config: &Config) -> Result<Vec<Arc<dyn ServerNodeAttestor>>, StartError> {
    let plugins = &config.node.plugins;
    if plugins.is_empty() {
        return Ok(Vec::new());
    }
    let folder = config.data_dir.join(PLUGINS);
    files::private_directory(&folder).map_err(failed("node attestors"))?;
    let attestor = |options: &PluginOptions| {
        let plugin = PluginServer::new(options.clone(), &folder, config.trust_domain.clone());
        Arc::new(plugin) as Arc<dyn ServerNodeAttestor>
    };
    Ok(plugins.iter().map(attestor).collect())
}

fn signer(config: &Config, keys: &Arc<dyn KeyManager>) -> Signer {
    Signer::new(
        Arc::clone(keys),
        config.authority.jwt_issuer.clone(),
        config.wit.issuer.clone(),
    )
}

/// Gives up what a server does not need; best effort: a container may not let us. The directories
/// that it writes to are made first, so that they can be named.
fn give_up(config: &Config) -> Result<(), StartError> {
    files::private_directory(&config.data_dir).map_err(failed("data directory"))?;
    let report = harden::apply(&config.hardening.options(config));
    tracing::info!(hardening = %report, "hardened");
    for (measure, outcome) in report.shortfalls() {
        tracing::warn!(measure = measure.as_str(), %outcome, "the daemon is less protected than it could be");
    }
    Ok(())
}

/// Work that goes on as long as the server does.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the server listens on.
struct Sockets {
    tcp: TcpListener,
    admin: Incoming,
}

fn bind(config: &Config) -> Result<Sockets, StartError> {
    let tcp = listen_on(config.listen).map_err(|error| StartError {
        what: "API port",
        cause: format!(
            "cannot listen on {}: {error}; set `listen` to a free address",
            config.listen
        ),
    })?;
    let options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    let socket = Listener::bind(&config.admin_socket, &options).map_err(failed("admin socket"))?;
    let admin = socket
        .incoming(muster_peer::Limits::default())
        .map_err(failed("admin socket"))?;
    Ok(Sockets { tcp, admin })
}

/// The connections of the API port, in the order in which the server has room for them.
fn incoming(
    server: &Server,
    tcp: TcpListener,
    acceptor: Acceptor,
) -> ReceiverStream<std::io::Result<listen::TlsConnection>> {
    listen::accept(
        tcp,
        acceptor,
        listen::Limits::default(),
        server.crowd.clone(),
        server.admission.clone(),
        Arc::clone(&server.clock),
    )
}

/// Listens with a queue that holds a storm: a connection that finds it full is tried again by its
/// kernel after a second, and then after ever longer.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As the standard library does: a restart must not wait for connections that have ended.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn open_roll(config: &Config) -> Result<(Arc<dyn Store>, Roll), StartError> {
    let store = SqliteStore::open(&config.database).map_err(failed("roll"))?;
    let loaded = store.load().await.map_err(failed("roll"))?;
    check_trust_domain(&loaded, &config.trust_domain)?;
    let roll = Roll::load(config.trust_domain.clone(), loaded);
    tracing::info!(revision = %roll.head(), entries = roll.entry_count(), nodes = roll.node_count(), "roll loaded");
    Ok((Arc::new(store), roll))
}

async fn open_keys(config: &KeysConfig) -> Result<Arc<dyn KeyManager>, StartError> {
    Ok(match config {
        KeysConfig::Memory => Arc::new(MemoryKeys::new()),
        KeysConfig::Disk(path) => Arc::new(DiskKeys::open(path).await.map_err(failed("keys"))?),
    })
}

/// A roll belongs to one trust domain for ever: its own bundle says which.
fn check_trust_domain(loaded: &muster_store::Loaded, ours: &TrustDomain) -> Result<(), StartError> {
    let Some(other) = loaded
        .bundles
        .iter()
        .find(|_| !loaded.journals.is_empty())
        .map(|b| &b.trust_domain)
    else {
        return Ok(());
    };
    if loaded
        .bundles
        .iter()
        .any(|bundle| bundle.trust_domain == *ours)
    {
        return Ok(());
    }
    Err(StartError {
        what: "roll",
        cause: format!(
            "the database belongs to trust domain \"{other}\" and the configuration says \"{ours}\"; \
             set `trust_domain` back, or `store.path` to a new file"
        ),
    })
}

fn acceptor(server: &Arc<Server>, identity: &Identity) -> Result<Acceptor, StartError> {
    let roll = server.roll.clone();
    let bundles = move |trust_domain: &TrustDomain| roll.snapshot().bundle(trust_domain).cloned();
    let clock = Arc::clone(&server.clock);
    let clock = move || clock.now().wall;
    Acceptor::with_grace(
        identity.clone(),
        Arc::new(bundles),
        Arc::new(clock),
        server.renew_grace,
    )
    .map_err(failed("TLS"))
}

/// What nodes and remote operators reach.
fn api(server: &Arc<Server>) -> Routes {
    Routes::new(AgentServer::new(AgentService(Arc::clone(server))))
        .add_service(BundleServer::new(BundleService(Arc::clone(server))))
        .add_service(EntryServer::new(EntryService(Arc::clone(server))))
        .add_service(SvidServer::new(SvidService(Arc::clone(server))))
        .add_service(LocalAuthorityServer::new(LocalAuthorityService(
            Arc::clone(server),
        )))
        .add_service(NodeViewServer::new(NodeViewService(Arc::clone(server))))
        .add_service(NodeRefusalsServer::new(NodeRefusalsService(Arc::clone(
            server,
        ))))
        .add_service(NodeAttestationsServer::new(NodeAttestationsService(
            Arc::clone(server),
        )))
        .add_service(NodeTasksServer::new(NodeTasksService(Arc::clone(server))))
        .add_service(TaskLedgerServer::new(TaskLedgerService(Arc::clone(server))))
        .add_service(ServerAdminServer::new(ServerAdminService(Arc::clone(
            server,
        ))))
        .add_service(RegistryServer::new(RegistryService(Arc::clone(server))))
        .add_service(AuditServer::new(AuditService(Arc::clone(server))))
        .add_service(PoliciesServer::new(PoliciesService(Arc::clone(server))))
        .add_service(RulesServer::new(RulesService(Arc::clone(server))))
        .add_service(DerivedSvidServer::new(DerivedSvidService(Arc::clone(
            server,
        ))))
        .add_service(SightingsServer::new(SightingsService(Arc::clone(server))))
        .add_service(NodeSightingsServer::new(NodeSightingsService(Arc::clone(
            server,
        ))))
}

/// The same for operators on the host, with health and reflection.
async fn admin_api(server: &Arc<Server>, level: LevelControl) -> Result<Routes, StartError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let told = policies::tell_health(server.policies.healthy(), reporter);
    // Ends with the server, of which it holds nothing.
    tokio::spawn(told);
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(muster_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("spire.api.server.agent.v1.Agent")
            .with_service_name("spire.api.server.bundle.v1.Bundle")
            .with_service_name("spire.api.server.entry.v1.Entry")
            .with_service_name("spire.api.server.svid.v1.SVID")
            .with_service_name("spire.api.server.localauthority.v1.LocalAuthority")
            .with_service_name("spire.api.server.debug.v1.Debug")
            .with_service_name("spire.api.server.logger.v1.Logger")
            .with_service_name("muster.server.admin.v1.ServerAdmin")
            .with_service_name("muster.server.admin.v1.Audit")
            .with_service_name("muster.agent.v1.Registry")
            .with_service_name("muster.agent.v1.TaskLedger")
            .with_service_name("muster.agent.v1.Policies")
            .with_service_name("muster.agent.v1.Rules")
            .with_service_name("muster.agent.v1.Sightings")
            .with_service_name("grpc.health.v1.Health")
    };
    let logger = LoggerService::new(Arc::clone(server), level);
    let debug = DebugService {
        server: Arc::clone(server),
        started_at: server.clock.now().wall,
    };
    Ok(api(server)
        .add_service(LoggerServer::new(logger))
        .add_service(DebugServer::new(debug))
        .add_service(health)
        .add_service(descriptors().build_v1().map_err(failed("reflection"))?)
        .add_service(
            descriptors()
                .build_v1alpha()
                .map_err(failed("reflection"))?,
        ))
}

/// What goes over the roll again and again.
fn upkeep(server: &Arc<Server>, store: Arc<dyn Store>) -> Work {
    let (pruned, reconciled, decides, sighted) = (
        Arc::clone(server),
        Arc::clone(server),
        Arc::clone(server),
        Arc::clone(server),
    );
    Box::pin(async move {
        tokio::join!(
            prune::shorten_change_log(store),
            prune::run(pruned),
            agents::reconcile(Arc::clone(&reconciled)),
            tasks::reconcile(reconciled),
            policies::reconcile(decides),
            sightings::prune(sighted),
        );
    })
}

/// Work that never ends by itself, until the shutdown.
fn until_end(
    shutdown: &Shutdown,
    work: Work,
) -> impl Future<Output = Result<(), StartError>> + Send + 'static {
    let shutdown = shutdown.clone();
    async move {
        tokio::select! {
            // First: once the shutdown has begun, work may end because what it works for is gone.
            biased;
            _reason = shutdown.begun() => Ok(()),
            () = work => Err(StartError { what: "server", cause: "periodic work ended by itself".to_owned() }),
        }
    }
}
