//! The double's services.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use muster_crypto::{KeyType, PrivateKey};
use muster_model::{EntryId, SpiffeId};
use muster_proto::muster::node::v1::{WatchRequest, WatchResponse, node_view_server};
use muster_proto::spire::api::server::agent::v1 as agent;
use muster_proto::spire::api::server::bundle::v1 as bundle;
use muster_proto::spire::api::server::svid::v1 as svid;
use muster_proto::spire::api::types;
use muster_roster::ViewDigest;
use muster_svid::x509::SigningRequest;
use muster_wire::{
    bundle as wire_bundle, entry as wire_entry, id as wire_id, status as wire_status,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::authority::Ca;
use crate::connection::Origin;
use crate::double::{Lie, Mind, Shared, id, trust_domain};

#[derive(Clone)]
pub(crate) struct Services(pub(crate) Arc<Shared>);

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Services {
    /// The node that calls, if the double is in the mood to serve it.
    pub(crate) fn node<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        if let Some(refusal) = self.0.mind().refusal {
            return Err(wire_status::node_refused("refused".to_owned(), refusal));
        }
        let origin = request.extensions().get::<Origin>();
        origin
            .and_then(|o| o.0.as_ref())
            .map(|peer| peer.spiffe_id.clone())
            .ok_or_else(|| Status::unauthenticated("no certificate"))
    }

    pub(crate) fn sign_node(
        &self,
        mind: &mut Mind,
        id: &SpiffeId,
        csr: &[u8],
        age: Duration,
    ) -> types::X509svid {
        let request = SigningRequest::parse(csr).unwrap();
        mind.node_keys.push(request.public_key.spki_der().to_vec());
        self.sign(mind, id, &request, mind.node_ttl, age)
    }

    pub(crate) fn sign(
        &self,
        mind: &Mind,
        spiffe_id: &SpiffeId,
        request: &SigningRequest,
        ttl: Duration,
        age: Duration,
    ) -> types::X509svid {
        let now = self.0.now();
        let mut key = request.public_key.clone();
        let mut name = spiffe_id.clone();
        let mut issued = now.minus(age);
        let other;
        let mut ca = mind.cas.last().unwrap();
        match mind.lie {
            Some(Lie::OtherKey) => {
                key = PrivateKey::generate(KeyType::EcP256)
                    .unwrap()
                    .public_key()
                    .clone();
            }
            Some(Lie::OtherAuthority) => {
                other = Ca::new(&trust_domain(), now);
                ca = &other;
            }
            Some(Lie::OtherIdentity) => name = id("/spire/agent/somebody/else"),
            Some(Lie::OtherTrustDomain) => {
                name = SpiffeId::parse("spiffe://evil.test/first").unwrap();
                other = Ca::new(name.trust_domain(), now);
                ca = &other;
            }
            Some(Lie::Expired) => {
                other = Ca::new(&trust_domain(), now.minus(Duration::from_hours(2)));
                issued = now.minus(Duration::from_hours(2));
                ca = &other;
            }
            _ => {}
        }
        let leaf = ca.sign(&name, &key, ttl, issued);
        types::X509svid {
            cert_chain: vec![leaf.into()],
            id: Some(wire_id::write(&name)),
            expires_at: now.plus(ttl).unix_seconds(),
            hint: String::new(),
        }
    }
}

#[tonic::async_trait]
impl agent::agent_server::Agent for Services {
    type AttestAgentStream = Answers<agent::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let mut steps = request.into_inner();
        let Some(agent::attest_agent_request::Step::Params(params)) =
            steps.message().await?.and_then(|m| m.step)
        else {
            return Err(Status::invalid_argument("no params"));
        };
        let data = params.data.unwrap();
        if data.r#type == crate::proof::NAME {
            let csr = params.params.unwrap().csr;
            return Ok(Response::new(self.proven(data, csr, steps)));
        }
        let token = String::from_utf8(data.payload.to_vec()).unwrap();
        let mut mind = self.0.mind();
        mind.photograph("AttestAgent");
        let csr = params.params.unwrap().csr;
        let key = SigningRequest::parse(&csr).unwrap();
        let use_of_it = (token.clone(), key.public_key.spki_der().to_vec());
        // As the server: a used token is good once more for the key that used it.
        if !mind.tokens.contains(&token) && !mind.joined.contains(&use_of_it) {
            return Err(Status::invalid_argument(
                "join token does not exist or has already been used",
            ));
        }
        mind.tokens.retain(|good| *good != token);
        mind.joined.push(use_of_it);
        mind.refusal = None;
        let node = id(&format!("/spire/agent/join_token/{token}"));
        let svid = {
            let age = mind.first_age;
            self.sign_node(&mut mind, &node, &csr, age)
        };
        let result = agent::attest_agent_response::Result {
            svid: Some(svid),
            reattestable: false,
        };
        let step = agent::attest_agent_response::Step::Result(result);
        let answer = agent::AttestAgentResponse { step: Some(step) };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::RenewAgentRequest>,
    ) -> Result<Response<agent::RenewAgentResponse>, Status> {
        let node = self.node(&request)?;
        let mut mind = self.0.mind();
        mind.photograph("RenewAgent");
        if mind.proof.admitted_again(&node) {
            return Err(wire_status::node_refused(
                "refused".to_owned(),
                muster_policy::NodeRefusal::MustReattest,
            ));
        }
        let csr = request.into_inner().params.unwrap().csr;
        let svid = Some(self.sign_node(&mut mind, &node, &csr, Duration::ZERO));
        Ok(Response::new(agent::RenewAgentResponse { svid }))
    }

    async fn count_agents(
        &self,
        _: Request<agent::CountAgentsRequest>,
    ) -> Result<Response<agent::CountAgentsResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn list_agents(
        &self,
        _: Request<agent::ListAgentsRequest>,
    ) -> Result<Response<agent::ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn get_agent(
        &self,
        _: Request<agent::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn delete_agent(
        &self,
        _: Request<agent::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn ban_agent(&self, _: Request<agent::BanAgentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn create_join_token(
        &self,
        _: Request<agent::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn post_status(
        &self,
        _: Request<agent::PostStatusRequest>,
    ) -> Result<Response<agent::PostStatusResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }
}

#[tonic::async_trait]
impl svid::svid_server::Svid for Services {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        self.node(&request)?;
        let mind = self.0.mind();
        mind.hear("BatchNewX509SVID");
        let results = request
            .into_inner()
            .params
            .iter()
            .map(|params| {
                let entry = mind.entries.get(&EntryId::parse(&params.entry_id).unwrap());
                let Some(entry) = entry else {
                    return svid::batch_new_x509svid_response::Result {
                        status: Some(wire_status::item(tonic::Code::NotFound, "no such entry")),
                        svid: None,
                    };
                };
                let csr = SigningRequest::parse(&params.csr).unwrap();
                svid::batch_new_x509svid_response::Result {
                    status: Some(wire_status::ok()),
                    svid: Some(self.sign(
                        &mind,
                        &entry.spiffe_id,
                        &csr,
                        mind.x509_ttl,
                        Duration::ZERO,
                    )),
                }
            })
            .collect();
        Ok(Response::new(svid::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::NewJwtsvidRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        self.node(&request)?;
        let mind = self.0.mind();
        mind.hear("NewJWTSVID");
        let request = request.into_inner();
        let entry = mind
            .entries
            .get(&EntryId::parse(&request.entry_id).unwrap())
            .ok_or_else(|| Status::not_found("no such entry"))?;
        let name = match mind.lie {
            Some(Lie::OtherIdentity) => id("/somebody/else"),
            _ => entry.spiffe_id.clone(),
        };
        let key = mind.jwt_keys.last().unwrap();
        let token = key.sign(&name, &request.audience, mind.jwt_ttl, self.0.now());
        let svid = Some(types::Jwtsvid {
            token,
            ..types::Jwtsvid::default()
        });
        Ok(Response::new(svid::NewJwtsvidResponse { svid }))
    }

    async fn mint_x509svid(
        &self,
        _: Request<svid::MintX509svidRequest>,
    ) -> Result<Response<svid::MintX509svidResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn mint_jwtsvid(
        &self,
        _: Request<svid::MintJwtsvidRequest>,
    ) -> Result<Response<svid::MintJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn mint_witsvid(
        &self,
        _: Request<svid::MintWitsvidRequest>,
    ) -> Result<Response<svid::MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<svid::BatchNewWitsvidRequest>,
    ) -> Result<Response<svid::BatchNewWitsvidResponse>, Status> {
        self.node(&request)?;
        let mind = self.0.mind();
        mind.hear("BatchNewWITSVID");
        let results =
            crate::wit_double::sign_all(&mind, &request.into_inner().params, self.0.now())?;
        Ok(Response::new(svid::BatchNewWitsvidResponse { results }))
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<svid::NewDownstreamX509caRequest>,
    ) -> Result<Response<svid::NewDownstreamX509caResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }
}

#[tonic::async_trait]
impl node_view_server::NodeView for Services {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.node(&request)?;
        let request = request.into_inner();
        {
            let mut mind = self.0.mind();
            mind.photograph("Watch");
            mind.resumed.push(request.revision);
        }
        let (answers, receiver) = mpsc::channel(1);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let mut changed = shared.changed.subscribe();
            let mut first = true;
            loop {
                let answer = {
                    let mind = shared.mind();
                    if let Some(refusal) = mind.refusal {
                        Err(wire_status::node_refused("refused".to_owned(), refusal))
                    } else {
                        // A node that is up to date hears so; everyone else gets the whole.
                        let same = first && request.revision == mind.revision;
                        Ok(if same { empty(&mind) } else { whole(&mind) })
                    }
                };
                first = false;
                let over = answer.is_err();
                if answers.send(answer).await.is_err() || over {
                    return;
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = answers.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn empty(mind: &Mind) -> WatchResponse {
    WatchResponse {
        revision: mind.revision,
        digest: mind.digest().as_bytes().to_vec().into(),
        complete: true,
        ..WatchResponse::default()
    }
}

fn whole(mind: &Mind) -> WatchResponse {
    let mut entries: Vec<types::Entry> = mind
        .entries
        .values()
        .map(|e| wire_entry::write(e, None))
        .collect();
    if mind.lie == Some(Lie::ForeignEntry)
        && let Some(first) = entries.first_mut()
    {
        first.spiffe_id.as_mut().unwrap().trust_domain = "evil.test".into();
    }
    if mind.lie == Some(Lie::OtherNodesEntry)
        && let Some(first) = entries.first_mut()
    {
        first.parent_id.as_mut().unwrap().path = "/spire/agent/join_token/another".into();
    }
    let digest = match mind.lie {
        Some(Lie::Digest) => ViewDigest::default(),
        _ => mind.digest(),
    };
    let mut answer = WatchResponse {
        revision: match mind.lie {
            Some(Lie::RevisionBack) => 1,
            _ => mind.revision,
        },
        replace: true,
        entries,
        bundles: std::iter::once(&mind.bundle())
            .chain(mind.foreign.values())
            .map(|b| wire_bundle::write(b, None))
            .collect(),
        removed_bundles: (mind.lie == Some(Lie::BundleRemoved))
            .then(|| trust_domain().as_str().to_owned())
            .into_iter()
            .collect(),
        digest: digest.as_bytes().to_vec().into(),
        complete: true,
        ..WatchResponse::default()
    };
    mind.write_rules(&mut answer);
    answer
}

#[tonic::async_trait]
impl bundle::bundle_server::Bundle for Services {
    async fn get_bundle(
        &self,
        _: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mind = self.0.mind();
        mind.hear("GetBundle");
        Ok(Response::new(wire_bundle::write(&mind.bundle(), None)))
    }

    async fn count_bundles(
        &self,
        _: Request<bundle::CountBundlesRequest>,
    ) -> Result<Response<bundle::CountBundlesResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn append_bundle(
        &self,
        _: Request<bundle::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<bundle::PublishJwtAuthorityRequest>,
    ) -> Result<Response<bundle::PublishJwtAuthorityResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn publish_wit_authority(
        &self,
        _: Request<bundle::PublishWitAuthorityRequest>,
    ) -> Result<Response<bundle::PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn list_federated_bundles(
        &self,
        _: Request<bundle::ListFederatedBundlesRequest>,
    ) -> Result<Response<bundle::ListFederatedBundlesResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn get_federated_bundle(
        &self,
        _: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<bundle::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchCreateFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<bundle::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchUpdateFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<bundle::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchSetFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<bundle::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchDeleteFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not for nodes"))
    }
}
