//! What is to be in a generation: from the node's answers to files.

use std::collections::BTreeMap;

use muster_crypto::{Purpose, pkcs12};
use muster_model::{Timestamp, TrustDomain};
use zeroize::Zeroizing;

use super::generation::Content;
use super::settings::{Settings, Trust};
use crate::failure::Failure;
use crate::pem;
use crate::workload::view::{X509Identity, X509Update};

/// The alias of the key in a PKCS #12 store.
const ALIAS: &str = "svid";

pub(super) const KEY_STORE: &str = "keystore.p12";
pub(super) const TRUST_STORE: &str = "truststore.p12";

/// Whether a file is a PKCS #12 store.
pub(super) fn is_store(name: &str) -> bool {
    [KEY_STORE, TRUST_STORE].contains(&name)
}

/// All that a generation is made of, as far as it has come.
#[derive(Default)]
pub(super) struct Materials {
    pub(super) x509: Option<X509Update>,
    /// By the name of their file: the token and when it expires.
    pub(super) tokens: BTreeMap<String, (Zeroizing<String>, Timestamp)>,
    /// By trust domain ID: the JWKS document.
    pub(super) jwks: Option<BTreeMap<String, Vec<u8>>>,
}

/// The identity that the settings choose: by ID, by hint, or the first, which is the node's default
/// (WAPI-29).
pub(super) fn chosen<'a>(
    settings: &Settings,
    update: &'a X509Update,
) -> Result<&'a X509Identity, Failure> {
    let found = update.svids.iter().find(|identity| {
        settings
            .spiffe_id
            .as_ref()
            .is_none_or(|id| *id == identity.svid.spiffe_id)
            && settings
                .hint
                .as_ref()
                .is_none_or(|hint| *hint == identity.hint)
    });
    found.ok_or_else(|| {
        let there: Vec<String> = update
            .svids
            .iter()
            .map(|identity| format!("{} (hint {:?})", identity.svid.spiffe_id, identity.hint))
            .collect();
        Failure::new(
            crate::failure::Exit::NotFound,
            format!(
                "none of this process's identities is the one of --spiffe-id or --hint; it has: {}",
                there.join(", ")
            ),
        )
    })
}

/// The files of a generation, and when the first thing in it expires; none while something is
/// missing.
pub(super) fn files(
    settings: &Settings,
    materials: &Materials,
) -> Result<Option<(Vec<Content>, Timestamp)>, Failure> {
    let Some(update) = &materials.x509 else {
        return Ok(None);
    };
    if materials.tokens.len() < settings.tokens.len() || (settings.jwks && materials.jwks.is_none())
    {
        return Ok(None);
    }
    let identity = chosen(settings, update)?;
    let mut files = Files {
        settings,
        all: Vec::new(),
    };
    files.x509(identity, update)?;
    let mut expires = identity.svid.not_after;
    for (name, (token, until)) in &materials.tokens {
        files.private(name, Zeroizing::new(token.as_bytes().to_vec()));
        expires = expires.min(*until);
    }
    if let (true, Some(jwks)) = (settings.jwks, &materials.jwks) {
        let own = identity.svid.spiffe_id.trust_domain().to_string();
        for (domain, document) in jwks {
            let domain = domain_of(domain)?;
            let name = if domain == own {
                "jwks.json".to_owned()
            } else {
                format!("jwks.{domain}.json")
            };
            files.public(&name, document.clone());
        }
    }
    Ok(Some((files.all, expires)))
}

struct Files<'a> {
    settings: &'a Settings,
    all: Vec<Content>,
}

impl Files<'_> {
    fn x509(&mut self, identity: &X509Identity, update: &X509Update) -> Result<(), Failure> {
        let chain = pem::certificates(identity.svid.chain.iter());
        let key = Zeroizing::new(pem::encode(
            pem::PRIVATE_KEY,
            identity.svid.key.expose(Purpose::WriteToDisk),
        ));
        if identity.bundle.is_empty() {
            return Err(Failure::failed(format!(
                "the node sent no root for {}, with which nobody could be verified",
                identity.svid.spiffe_id
            )));
        }
        let mut roots: Vec<(String, &[u8])> = Vec::new();
        let own = identity.svid.spiffe_id.trust_domain().to_string();
        roots.extend(identity.bundle.iter().map(|root| (own.clone(), &root[..])));
        for (domain, foreign) in &update.federated {
            let domain = domain_of(domain)?;
            self.public(
                &format!("bundle.{domain}.pem"),
                pem::certificates(foreign).into_bytes(),
            );
            if self.settings.trust == Trust::All {
                roots.extend(foreign.iter().map(|root| (domain.clone(), &root[..])));
            }
        }
        let bundle = pem::certificates(roots.iter().map(|(_, root)| root));
        self.public("bundle.pem", bundle.into_bytes());
        if self.settings.combined {
            let mut both = Zeroizing::new(Vec::with_capacity(chain.len() + key.len()));
            both.extend_from_slice(chain.as_bytes());
            both.extend_from_slice(key.as_bytes());
            self.private("combined.pem", both);
        }
        if let Some(password) = &self.settings.password {
            let unfit = |error| Failure::failed(format!("cannot make a PKCS #12 store: {error}"));
            let chain: Vec<&[u8]> = identity.svid.chain.iter().map(AsRef::as_ref).collect();
            let key = identity.svid.key.expose(Purpose::WriteToDisk);
            let store = pkcs12::key_store(ALIAS, key, &chain, password).map_err(unfit)?;
            self.private(KEY_STORE, store);
            let aliased: Vec<(String, &[u8])> = roots
                .iter()
                .enumerate()
                .map(|(n, (domain, root))| (format!("{domain}-{n}"), *root))
                .collect();
            let store = pkcs12::trust_store(&aliased, password).map_err(unfit)?;
            self.add(TRUST_STORE, store, muster_rt::files::PUBLIC);
        }
        self.public("svid.pem", chain.into_bytes());
        self.private("svid.key", Zeroizing::new(key.as_bytes().to_vec()));
        Ok(())
    }

    fn public(&mut self, name: &str, bytes: Vec<u8>) {
        self.add(name, Zeroizing::new(bytes), muster_rt::files::PUBLIC);
    }

    fn private(&mut self, name: &str, bytes: Zeroizing<Vec<u8>>) {
        self.add(name, bytes, muster_rt::files::PRIVATE);
    }

    fn add(&mut self, name: &str, bytes: Zeroizing<Vec<u8>>, mode: u32) {
        self.all.push(Content {
            name: name.to_owned(),
            bytes,
            mode: self.settings.modes.get(name).copied().unwrap_or(mode),
            owner: self
                .settings
                .owners
                .get(name)
                .copied()
                .unwrap_or(self.settings.owner),
        });
    }
}

/// The name of a trust domain from the ID that the node sent; it becomes part of a file's name.
fn domain_of(id: &str) -> Result<String, Failure> {
    let name = id.strip_prefix("spiffe://").unwrap_or(id);
    TrustDomain::parse(name)
        .map(|domain| domain.to_string())
        .map_err(|error| Failure::failed(format!("the node sent a bundle for {id:?}: {error}")))
}
