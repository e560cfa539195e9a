//! What every request passes first, reflection included: the header, then who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_model::{Bundle, SpiffeId, TrustDomain};
use muster_rt::Clock;
use muster_tls::BundleSource;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::listen::Origin;
use super::{Asking, Surroundings, refusal};
use crate::config::{Broker, BrokerConfig};
use crate::driver::KnownBundles;
use crate::upstream::Trust;

const HEADER: &str = "broker.spiffe.io";

/// The gate. Clones share everything.
#[derive(Clone)]
pub(super) struct Gate {
    allowed: Arc<BTreeMap<SpiffeId, Arc<Broker>>>,
    bundles: Arc<Bundles>,
    clock: Arc<dyn Clock>,
}

/// What brokers are verified with: the own bundle, and those of the foreign trust domains that
/// the allow list names.
struct Bundles {
    own: TrustDomain,
    trust: Trust,
    known: watch::Receiver<KnownBundles>,
    foreign: BTreeSet<TrustDomain>,
}

impl BundleSource for Bundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        if *trust_domain == self.own {
            return self.trust.bundle();
        }
        // Whoever is not on the list has no reason to get as far as that.
        self.foreign
            .contains(trust_domain)
            .then(|| self.known.borrow().get(trust_domain).cloned())?
    }
}

impl Gate {
    pub(super) fn new(config: &BrokerConfig, around: &Surroundings) -> Self {
        let allowed: BTreeMap<_, _> = config
            .allowed
            .iter()
            .map(|(id, broker)| (id.clone(), Arc::new(broker.clone())))
            .collect();
        let bundles = Bundles {
            own: around.trust_domain.clone(),
            trust: around.trust.clone(),
            known: around.bundles.clone(),
            foreign: allowed
                .keys()
                .map(SpiffeId::trust_domain)
                .filter(|td| **td != around.trust_domain)
                .cloned()
                .collect(),
        };
        Self {
            allowed: Arc::new(allowed),
            bundles: Arc::new(bundles),
            clock: around.clock.clone(),
        }
    }

    /// What handshakes are verified with.
    pub(super) fn bundles(&self) -> Arc<dyn BundleSource> {
        self.bundles.clone()
    }

    /// Who calls, if it may call at all (BRK-20, BEP-03).
    fn asking(&self, origin: Option<&Origin>) -> Result<Asking, Status> {
        let (peer, transport) = origin
            .and_then(|origin| Some((origin.peer.clone()?, origin.transport)))
            .ok_or_else(|| refusal::unauthenticated("the connection has no X509-SVID"))?;
        // A connection outlives its handshake: what was good then may not be now (BEP-07).
        if peer.not_after <= self.clock.now().wall {
            return Err(refusal::expired());
        }
        let domain = peer.spiffe_id.trust_domain();
        if self.bundles.bundle(domain).is_none() {
            return Err(refusal::unauthenticated(
                "the broker's trust domain is not trusted any more",
            ));
        }
        let Some(may) = self.allowed.get(&peer.spiffe_id) else {
            return Err(refusal::not_a_broker(&peer.spiffe_id, transport));
        };
        Ok(Asking {
            id: peer.spiffe_id.clone(),
            transport,
            not_after: peer.not_after,
            may: may.clone(),
        })
    }
}

impl Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        check_header(request.metadata())?;
        let asking = self.asking(request.extensions().get::<Origin>())?;
        request.extensions_mut().insert(asking);
        Ok(request)
    }
}

/// Exactly one value, and exactly `true` (BEP-05).
fn check_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        _ => Err(refusal::no_header()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::metadata::MetadataValue;

    use super::*;

    /// BEP-05.
    #[test]
    fn the_header_is_true_and_there_once() {
        let check = |name: &'static str, values: &[&'static str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append(name, MetadataValue::from_static(value));
            }
            check_header(&metadata)
        };
        assert!(check(HEADER, &["true"]).is_ok());
        for values in [
            &[][..],
            &["True"],
            &["1"],
            &[""],
            &["true "],
            &["true", "true"],
            &["false", "true"],
        ] {
            let status = check(HEADER, values).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
        }
        assert!(check("workload.spiffe.io", &["true"]).is_err());
    }
}
