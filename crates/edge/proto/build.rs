//! Generates the gRPC code from `proto/` without a `protoc` on the machine.

use std::path::PathBuf;
use std::{env, error, fs};

/// Every service; what they import comes along.
const FILES: &[&str] = &[
    "spiffe/broker/brokerapi.proto",
    "spiffe/workload/workloadapi.proto",
    "spire/api/agent/delegatedidentity/v1/delegatedidentity.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/debug/v1/debug.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/logger/v1/logger.proto",
    "spire/api/agent/debug/v1/debug.proto",
    "spire/api/agent/logger/v1/logger.proto",
    "muster/agent/v1/policies.proto",
    "muster/agent/v1/registry.proto",
    "muster/agent/v1/rules.proto",
    "muster/agent/v1/sightings.proto",
    "muster/agent/v1/task_ledger.proto",
    "muster/agent/v1/tasks.proto",
    "muster/node/v1/attestations.proto",
    "muster/node/v1/derived.proto",
    "muster/node/v1/node.proto",
    "muster/node/v1/refusals.proto",
    "muster/node/v1/sightings.proto",
    "muster/node/v1/tasks.proto",
    "muster/node/admin/v1/admin.proto",
    "muster/node/admin/v1/sightings.proto",
    "muster/server/admin/v1/admin.proto",
    "muster/server/admin/v1/audit.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "muster/plugin/v1/workload.proto",
    "muster/plugin/v1/node.proto",
];

/// Messages that carry keys or tokens: they get no `Debug`, so that none can be logged.
const SECRET: &[&str] = &[
    ".X509SVIDResponse",
    ".X509SVID",
    ".JWTSVIDResponse",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".WITSVIDResponse",
    ".WITSVID",
    ".spiffe.broker.SubscribeToX509SVIDResponse",
    ".spiffe.broker.X509SVID",
    ".spiffe.broker.FetchJWTSVIDResponse",
    ".spiffe.broker.JWTSVID",
    ".spire.api.agent.delegatedidentity.v1.X509SVIDWithKey",
    ".spire.api.agent.delegatedidentity.v1.SubscribeToX509SVIDsResponse",
    ".spire.api.agent.delegatedidentity.v1.FetchJWTSVIDsResponse",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.server.svid.v1.MintJWTSVIDResponse",
    ".spire.api.server.svid.v1.NewJWTSVIDResponse",
    ".spire.api.server.svid.v1.MintWITSVIDResponse",
    ".spire.api.server.svid.v1.BatchNewWITSVIDResponse",
    ".spire.api.server.agent.v1.AttestAgentRequest.step",
    ".spire.api.server.agent.v1.AttestAgentRequest.Params",
    ".muster.plugin.v1.ProveResponse",
    ".muster.plugin.v1.ProveResponse.step",
    ".muster.plugin.v1.ConcludeRequest",
    ".muster.plugin.v1.ConcludeRequest.step",
    ".muster.plugin.v1.ConcludeBegin",
    ".envoy.config.core.v3.DataSource",
    ".envoy.config.core.v3.DataSource.specifier",
    ".envoy.extensions.transport_sockets.tls.v3.Secret",
    ".envoy.extensions.transport_sockets.tls.v3.Secret.type",
    ".envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.DeltaDiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
    ".envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
    ".envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
    ".envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([&root])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::LeanCodec")
        .skip_debug(SECRET)
        // The other variants are numbers.
        .boxed(".muster.server.admin.v1.TailResponse.told.record")
        .include_file("packages.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
