//! The flags of `entry create` and `entry update`, and the entries that they make.

use clap::{Args, ValueEnum};
use muster_model::{ClassName, EntryId, Selector, SpiffeId, TrustDomain};
use muster_proto::spire::api::types::entry::AdditionalAttributes;
use muster_proto::spire::api::types::{Entry, EntryMask};
use muster_wire::{id, selector};

use super::data;
use crate::failure::Failure;
use crate::server_api::ServerArgs;
use crate::time::{Ttl, parse_instant, parse_ttl};

/// What both commands can set. A switch alone is true; `=false` takes it back.
#[derive(Args, Debug)]
struct Fields {
    /// What a caller must be attested as; repeatable, all must hold
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<Selector>,
    /// Lifetime of X509-SVIDs; 0s is the server's default
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    x509_ttl: Option<Ttl>,
    /// Lifetime of JWT-SVIDs; 0s is the server's default
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    jwt_ttl: Option<Ttl>,
    /// A foreign trust domain whose bundle the workload receives; repeatable
    #[arg(long, value_name = "TRUST-DOMAIN", value_parser = TrustDomain::from_name_or_id)]
    federates_with: Vec<TrustDomain>,
    /// A DNS name for X509-SVIDs; repeatable, the first is also the common name
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// The identity may administer the server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    admin: Option<bool>,
    /// The identity may sign for a downstream server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    downstream: Option<bool>,
    /// The node keeps the SVID in an external store
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    store_svid: Option<bool>,
    /// A word by which the workload tells several identities apart
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// The agent class that the identity is of, where its path, /agent/CLASS/..., does not say
    #[arg(long, value_name = "CLASS")]
    class: Option<ClassName>,
    /// When the entry is removed: RFC 3339, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    expires_at: Option<i64>,
    /// Nodes sign the X509-SVID only when a workload asks
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disable_x509_prefetch: Option<bool>,
    /// Each JWT-SVID has a unique jti and is never cached
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    jwt_include_jti: Option<bool>,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The identity that a matching workload receives
    #[arg(long, value_name = "ID", required_unless_present = "data")]
    spiffe_id: Option<SpiffeId>,
    /// The node, node alias or entry under which the workload must run
    #[arg(
        long,
        value_name = "ID",
        required_unless_present_any = ["data", "node"],
        conflicts_with = "node"
    )]
    parent_id: Option<SpiffeId>,
    /// The entry is an alias for nodes: its parent is the server itself
    #[arg(long)]
    node: bool,
    /// The entry's own name; without it the server chooses one
    #[arg(long, value_name = "ENTRY-ID")]
    entry_id: Option<EntryId>,
    #[command(flatten)]
    fields: Fields,
    /// Read entries from a JSON file, or from standard input with "-": {"entries":[...]} with the
    /// field names that `entry list --json` prints
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["spiffe_id", "parent_id", "node", "entry_id", "selector"]
    )]
    data: Option<String>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Create {
    /// The entries to create.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, Failure> {
        if let Some(file) = &self.data {
            return data::read(file);
        }
        let spiffe_id = self
            .spiffe_id
            .as_ref()
            .ok_or_else(|| Failure::usage("--spiffe-id is missing"))?;
        let parent_id = match (&self.parent_id, self.node) {
            (Some(parent), _) => parent.clone(),
            (None, _) => spiffe_id.trust_domain().server_id(),
        };
        if self.fields.selector.is_empty() {
            return Err(Failure::usage(
                "--selector is missing; an entry has at least one, such as --selector unix:uid:1000",
            ));
        }
        let mut entry = Entry {
            id: self
                .entry_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            spiffe_id: Some(id::write(spiffe_id)),
            parent_id: Some(id::write(&parent_id)),
            ..Entry::default()
        };
        self.fields.apply(&mut entry, &mut EntryMask::default());
        Ok(vec![entry])
    }
}

/// What `entry update --clear` can empty.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Clear {
    /// All DNS names
    Dns,
    /// All foreign trust domains
    FederatesWith,
    /// The agent class
    Class,
    /// The hint
    Hint,
    /// The expiry: the entry stays for ever
    ExpiresAt,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// ID of the entry
    #[arg(value_name = "ENTRY-ID")]
    pub(super) id: EntryId,
    /// The identity that a matching workload receives
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The node, node alias or entry under which the workload must run
    #[arg(long, value_name = "ID")]
    parent_id: Option<SpiffeId>,
    #[command(flatten)]
    fields: Fields,
    /// Empty a field; repeatable
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Clear>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Update {
    /// Whether one of the two extra attributes is to be changed and the other is not named.
    pub(super) fn names_one_attribute(&self) -> bool {
        self.fields.disable_x509_prefetch.is_some() != self.fields.jwt_include_jti.is_some()
    }

    /// The entry with what is given, and the mask that says what that is.
    pub(super) fn entry_and_mask(
        &self,
        current: Option<AdditionalAttributes>,
    ) -> Result<(Entry, EntryMask), Failure> {
        let mut mask = EntryMask {
            spiffe_id: self.spiffe_id.is_some(),
            parent_id: self.parent_id.is_some(),
            dns_names: self.clear.contains(&Clear::Dns),
            federates_with: self.clear.contains(&Clear::FederatesWith),
            hint: self.clear.contains(&Clear::Hint),
            muster_agent_class: self.clear.contains(&Clear::Class),
            expires_at: self.clear.contains(&Clear::ExpiresAt),
            ..EntryMask::default()
        };
        let mut entry = Entry {
            id: self.id.to_string(),
            spiffe_id: self.spiffe_id.as_ref().map(id::write),
            parent_id: self.parent_id.as_ref().map(id::write),
            additional_attributes: current,
            ..Entry::default()
        };
        self.fields.apply(&mut entry, &mut mask);
        if mask == EntryMask::default() {
            return Err(Failure::usage(
                "nothing to change was given; see `muster entry update --help`",
            ));
        }
        Ok((entry, mask))
    }
}

impl Fields {
    /// Puts what was given into the entry, and sets its bits in the mask.
    fn apply(&self, entry: &mut Entry, mask: &mut EntryMask) {
        if !self.selector.is_empty() {
            entry.selectors = self.selector.iter().map(selector::write).collect();
            mask.selectors = true;
        }
        if let Some(Ttl(seconds)) = self.x509_ttl {
            entry.x509_svid_ttl = seconds;
            mask.x509_svid_ttl = true;
        }
        if let Some(Ttl(seconds)) = self.jwt_ttl {
            entry.jwt_svid_ttl = seconds;
            mask.jwt_svid_ttl = true;
        }
        if !self.federates_with.is_empty() {
            entry.federates_with = self
                .federates_with
                .iter()
                .map(ToString::to_string)
                .collect();
            mask.federates_with = true;
        }
        if !self.dns.is_empty() {
            entry.dns_names.clone_from(&self.dns);
            mask.dns_names = true;
        }
        if let Some(admin) = self.admin {
            entry.admin = admin;
            mask.admin = true;
        }
        if let Some(downstream) = self.downstream {
            entry.downstream = downstream;
            mask.downstream = true;
        }
        if let Some(store_svid) = self.store_svid {
            entry.store_svid = store_svid;
            mask.store_svid = true;
        }
        if let Some(class) = &self.class {
            entry.muster_agent_class = class.to_string();
            mask.muster_agent_class = true;
        }
        if let Some(hint) = &self.hint {
            entry.hint.clone_from(hint);
            mask.hint = true;
        }
        if let Some(expires_at) = self.expires_at {
            entry.expires_at = expires_at;
            mask.expires_at = true;
        }
        if self.disable_x509_prefetch.is_some() || self.jwt_include_jti.is_some() {
            let attributes = entry
                .additional_attributes
                .get_or_insert_with(AdditionalAttributes::default);
            if let Some(disable) = self.disable_x509_prefetch {
                attributes.disable_x509_svid_prefetch = disable;
            }
            if let Some(include) = self.jwt_include_jti {
                attributes.jwt_svid_include_jti = include;
            }
            mask.additional_attributes = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CreateLine {
        #[command(flatten)]
        create: Create,
    }

    #[derive(Parser)]
    struct UpdateLine {
        #[command(flatten)]
        update: Update,
    }

    fn create(flags: &str) -> Entry {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        let line = CreateLine::try_parse_from(words).unwrap();
        line.create.entries().unwrap().pop().unwrap()
    }

    fn update(flags: &str) -> Result<(Entry, EntryMask), Failure> {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        let line = UpdateLine::try_parse_from(words).unwrap();
        line.update.entry_and_mask(None)
    }

    #[test]
    fn an_entry_from_flags() {
        let entry = create(
            "--spiffe-id spiffe://example.org/web --parent-id spiffe://example.org/n \
             --selector unix:uid:1000 --selector unix:path:/a:b --x509-ttl 1h --jwt-ttl 300 \
             --dns web.example.org --federates-with spiffe://other.org --admin --hint web \
             --expires-at 2027-01-01T00:00:00Z --entry-id e1 --disable-x509-prefetch",
        );
        assert_eq!(entry.id, "e1");
        assert_eq!(entry.spiffe_id.unwrap().path, "/web");
        assert_eq!(entry.selectors[1].value, "path:/a:b");
        assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl), (3600, 300));
        assert_eq!(entry.federates_with, ["other.org"]);
        assert!(entry.admin && !entry.downstream);
        assert_eq!(entry.expires_at, 1_798_761_600);
        let attributes = entry.additional_attributes.unwrap();
        assert!(attributes.disable_x509_svid_prefetch && !attributes.jwt_svid_include_jti);
    }

    #[test]
    fn a_node_alias_has_the_server_as_its_parent() {
        let entry = create("--node --spiffe-id spiffe://example.org/n --selector a:b");
        assert_eq!(entry.parent_id.unwrap().path, "/spire/server");
    }

    #[test]
    fn an_update_sends_only_what_is_given() {
        let (entry, mask) = update("e1 --hint x --admin=false --clear dns").unwrap();
        assert_eq!((entry.hint.as_str(), entry.admin), ("x", false));
        let expected = EntryMask {
            hint: true,
            admin: true,
            dns_names: true,
            ..EntryMask::default()
        };
        assert_eq!(mask, expected);
        assert!(update("e1").is_err());
    }
}
