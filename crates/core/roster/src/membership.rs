//! Which call is in which group, and which entries a group has.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_model::EntryId;

use crate::calls::{Call, JwtCall, Kind};
use crate::event::{CallId, OnMiss, Scope, Want, Who};
use crate::groups::{Group, GroupId};
use crate::holdings::Holdings;
use crate::kinds::{SvidKind, WitKind, X509Kind};
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::roster::Roster;
use crate::time::Alarm;

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    pub(crate) fn on_call(
        &mut self,
        call: CallId,
        scope: Scope,
        who: Who,
        want: Want,
        on_miss: OnMiss,
        patience: Option<Duration>,
    ) {
        if self.calls.contains_key(&call) {
            return;
        }
        let kind = match want {
            Want::X509Svids => Kind::X509Svids(None),
            Want::X509Bundles => Kind::X509Bundles(None),
            Want::JwtBundles => Kind::JwtBundles(None),
            Want::Trust => Kind::Trust,
            Want::WitBundles => Kind::WitBundles(None),
            Want::WitSvids { spiffe_id } => Kind::WitSvids {
                spiffe_id,
                told: None,
            },
            Want::JwtSvids {
                mut audience,
                spiffe_id,
            } => {
                audience.sort_unstable();
                audience.dedup();
                Kind::JwtSvids(JwtCall {
                    audience: audience.into(),
                    spiffe_id,
                    tokens: BTreeMap::new(),
                    asked: BTreeMap::new(),
                    fault: None,
                })
            }
        };
        let process = who.process;
        let group = self.join(scope, who);
        let state = Call {
            group,
            process,
            arrived: self.now.mono,
            patience,
            on_miss,
            kind,
        };
        self.calls.insert(call, state);
        self.enter(call, group);
        self.stale_calls.insert(call);
    }

    /// The group of such callers, which may have no call yet.
    fn join(&mut self, scope: Scope, who: Who) -> GroupId {
        let who = self.view.told_apart_by(who);
        let key = (scope, who.clone());
        if let Some(group) = self.by_who.get(&key) {
            return *group;
        }
        self.next_group += 1;
        let id = GroupId(self.next_group);
        let entries = &self.view.entries;
        let asks = |entry: &EntryId| entries.get(entry).map(|e| &e.selectors);
        let matches = self
            .entry_index
            .matching(&who.selectors, asks)
            .filter(|entry| entries.get(*entry).is_some_and(|e| scope.admits(e)))
            .cloned()
            .collect();
        for entry in &matches {
            let groups: &mut std::collections::BTreeSet<GroupId> =
                self.groups_of.entry(EntryId::clone(entry)).or_default();
            groups.insert(id);
        }
        self.group_index.add(id, &who.selectors);
        self.by_who.insert(key, id);
        self.groups.insert(id, Group::new(who, scope, matches));
        self.name_group(id);
        id
    }

    /// Each call of a group whose process is known goes to a group of that process.
    pub(crate) fn split(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group.who.process.is_some() {
            return;
        }
        let (scope, selectors) = (group.scope, group.who.selectors.clone());
        for call in group.calls.clone() {
            let Some(process) = self.calls.get(&call).and_then(|call| call.process) else {
                continue;
            };
            let who = Who {
                selectors: selectors.clone(),
                process: Some(process),
            };
            let to = self.join(scope, who);
            // First there, then gone: what both groups have keeps its subscribers.
            self.enter(call, to);
            self.leave(call, id);
            if let Some(call) = self.calls.get_mut(&call) {
                call.group = to;
            }
            self.stale_calls.insert(call);
        }
    }

    /// A call is one of the group's from now on.
    fn enter(&mut self, call: CallId, group: GroupId) {
        let Some(state) = self.calls.get(&call) else {
            return;
        };
        let (streams_x509, lane) = (state.is_x509(), state.wit_lane());
        self.with_group(group, |group, holdings, wits| {
            group.calls.insert(call);
            if streams_x509 {
                group.x509_calls += 1;
                if group.x509_calls == 1 {
                    group.matches.iter().for_each(|id| holdings.subscribe(id));
                }
            }
            if let Some(lane) = lane
                && group.wits.enter(lane) == 1
            {
                group.matches.iter().for_each(|id| wits.subscribe(id));
            }
        });
    }

    /// A call is no longer the group's; a group without calls goes.
    fn leave(&mut self, call: CallId, id: GroupId) {
        let Some(state) = self.calls.get(&call) else {
            return;
        };
        let (streamed_x509, lane) = (state.is_x509(), state.wit_lane());
        self.with_group(id, |group, holdings, wits| {
            group.calls.remove(&call);
            if streamed_x509 {
                group.x509_calls -= 1;
                if group.x509_calls == 0 {
                    group.matches.iter().for_each(|id| holdings.unsubscribe(id));
                }
            }
            if let Some(lane) = lane
                && group.wits.leave(&lane) == 0
            {
                group.matches.iter().for_each(|id| wits.unsubscribe(id));
            }
        });
        if self.groups.get(&id).is_none_or(|g| !g.calls.is_empty()) {
            return;
        }
        self.pass_over(id, Vec::new());
        let Some(group) = self.groups.remove(&id) else {
            return;
        };
        for entry in &group.matches {
            self.no_longer_of(entry, id);
            self.rest_name(entry);
        }
        self.group_index.remove(id, &group.who.selectors);
        self.by_who.remove(&(group.scope, group.who));
        self.stale_groups.remove(&id);
        for kind in [SvidKind::X509, SvidKind::Wit] {
            self.agenda.clear(&Alarm::Settle(kind, id));
        }
    }

    /// Forgets a call and whatever was only there for it.
    pub(crate) fn end(&mut self, id: CallId) {
        let Some(group) = self.calls.get(&id).map(|call| call.group) else {
            return;
        };
        self.agenda.clear(&Alarm::Call(id));
        self.stale_calls.remove(&id);
        self.leave(id, group);
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if let Kind::JwtSvids(jwt) = call.kind {
            for request in jwt.asked.into_values() {
                self.tokens.leave(request, id, &mut self.agenda);
            }
        }
    }

    /// An entry, or a name, applies to a group from now on.
    pub(crate) fn attach(&mut self, entry: &EntryId, group: GroupId) {
        self.with_group(group, |group, holdings, wits| {
            group.matches.insert(entry.clone());
            if group.x509_calls > 0 {
                holdings.subscribe(entry);
            }
            if group.wits.calls() > 0 {
                wits.subscribe(entry);
            }
        });
        let groups = self.groups_of.entry(entry.clone()).or_default();
        groups.insert(group);
    }

    /// It does no longer.
    pub(crate) fn detach(&mut self, entry: &EntryId, group: GroupId) {
        self.with_group(group, |group, holdings, wits| {
            group.matches.remove(entry);
            if group.x509_calls > 0 {
                holdings.unsubscribe(entry);
            }
            if group.wits.calls() > 0 {
                wits.unsubscribe(entry);
            }
        });
        self.no_longer_of(entry, group);
    }

    fn no_longer_of(&mut self, entry: &EntryId, group: GroupId) {
        if let Some(groups) = self.groups_of.get_mut(entry) {
            groups.remove(&group);
            if groups.is_empty() {
                self.groups_of.remove(entry);
            }
        }
    }

    fn with_group(
        &mut self,
        id: GroupId,
        change: impl FnOnce(&mut Group<X, W>, &mut Holdings<X509Kind<X>>, &mut Holdings<WitKind<W>>),
    ) {
        if let Some(group) = self.groups.get_mut(&id) {
            change(group, &mut self.holdings, &mut self.wits);
        }
    }
}
