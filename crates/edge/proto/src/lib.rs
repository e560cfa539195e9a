//! Generated messages and services, by their protobuf packages, and the codec that they travel by.
//!
//! Start at the files in `proto/`. The Workload API's file has no package, so its types stand at
//! the root of [`generated`]; [`workload`] names them. Messages that carry keys or tokens have no
//! `Debug`. Conversions to and from the model are in `edge/wire`.

pub mod codec;

/// All of `proto/` as an encoded `FileDescriptorSet`, for gRPC reflection and for tests that walk
/// every service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The generated tree.
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::{envoy, google, muster, spiffe, spire};

/// The SPIFFE Workload API.
pub mod workload {
    pub use crate::generated::spiffe_workload_api_client;
    pub use crate::generated::spiffe_workload_api_server;
    pub use crate::generated::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse,
        Witsvid, WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svid, X509svidRequest, X509svidResponse,
    };
}
