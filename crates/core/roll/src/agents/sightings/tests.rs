use std::fmt::Write as _;

use muster_model::{
    Confidence, Heir, Note, Shown, SightingClue, SightingEvidence, TrustDomain, Word,
};

use super::*;
use crate::agents::world::{self, active, class, name};
use crate::world::{entry, id, node, selectors, step as apply};

const T0: Timestamp = Timestamp::from_unix_seconds(1_000_000);

fn at(seconds: u64) -> Timestamp {
    T0.plus(Duration::from_secs(seconds))
}

fn key(n: usize) -> SightingKey {
    SightingKey::parse(&format!("{n:032x}")).unwrap()
}

fn seen(n: usize, identities: &[&str]) -> Sighted {
    Sighted {
        key: key(n),
        product: Word::parse("claude-code").unwrap(),
        kind: SightingKind::Cli,
        confidence: Confidence::Certain,
        also: Vec::new(),
        evidence: vec![SightingEvidence {
            clue: SightingClue::Executable,
            rule: Shown::of("claude"),
        }],
        executable: Shown::of("/usr/bin/claude"),
        shape: Shown::of("WORD"),
        uid: 1000,
        user: Shown::of("ana"),
        unit: Shown::empty(),
        started_by: Vec::new(),
        ports: Vec::new(),
        count: 1,
        pids: vec![42],
        started: T0,
        providers: Vec::new(),
        facts: selectors(&["unix:uid:1000", "unix:gid:5", "unix:path:/usr/bin/claude"]),
        identities: identities.iter().map(|path| id(path)).collect(),
        inherited: Vec::new(),
    }
}

fn mine() -> SpiffeId {
    id("/spire/agent/x/1")
}

fn roll() -> Roll {
    let mut roll = Roll::empty(TrustDomain::parse("td").unwrap());
    apply(
        &mut roll,
        &[Change::PutNode(Arc::new(node(
            "/spire/agent/x/1",
            &["s:a"],
        )))],
    );
    roll
}

/// A report, applied; what was new, by key.
fn report(roll: &mut Roll, told: Vec<Sighted>, most: usize, now: Timestamp) -> Vec<(u128, News)> {
    let settled = settle(roll, &mine(), told, most, now);
    let news = settled
        .changed
        .iter()
        .map(|changed| {
            (
                u128::from_str_radix(changed.row.seen.key.as_str(), 16).unwrap(),
                changed.news,
            )
        })
        .collect();
    let put = settled
        .changed
        .into_iter()
        .map(|changed| AgentChange::PutSighting(Arc::new(changed.row)));
    let forget = settled
        .forgotten
        .into_iter()
        .map(AgentChange::DeleteSighting);
    let changes: Vec<Change> = forget.chain(put).map(Change::Agent).collect();
    if !changes.is_empty() {
        apply(roll, &changes);
    }
    news
}

fn states(roll: &Roll) -> Vec<&'static str> {
    let rows = roll.agents().sightings().all();
    rows.map(|row| row.state().as_str()).collect()
}

#[test]
fn what_is_told_again_is_not_written_again() {
    let mut roll = roll();
    assert_eq!(
        report(&mut roll, vec![seen(1, &[])], 9, at(0)),
        [(1, News::New)]
    );
    assert_eq!(report(&mut roll, vec![seen(1, &[])], 9, at(60)), []);
    // Another process of the kind is no news.
    let more = Sighted {
        count: 2,
        pids: vec![42, 43],
        ..seen(1, &[])
    };
    assert_eq!(report(&mut roll, vec![more.clone()], 9, at(120)), []);
    // But is written some time.
    assert_eq!(
        report(&mut roll, vec![more], 9, at(600)),
        [(1, News::Nothing)]
    );
    // What else changes is written at once.
    let elsewhere = Sighted {
        ports: vec![8080],
        ..seen(1, &[])
    };
    assert_eq!(
        report(&mut roll, vec![elsewhere], 9, at(601)),
        [(1, News::Nothing)]
    );
    let row = roll.agents().sightings().all().next().unwrap();
    assert_eq!((row.first_seen, row.last_seen), (at(0), at(601)));
}

#[test]
fn gone_and_back() {
    let mut roll = roll();
    report(&mut roll, vec![seen(1, &[]), seen(2, &[])], 9, at(0));
    let known = roll.agents().sightings().all().next().unwrap();
    let known = acknowledged(
        known,
        "uid 0".into(),
        Note::parse("a trial").unwrap(),
        at(1),
    );
    apply(
        &mut roll,
        &[Change::Agent(AgentChange::PutSighting(Arc::new(known)))],
    );
    assert_eq!(states(&roll), ["acknowledged", "new"]);
    assert_eq!(
        report(&mut roll, vec![seen(2, &[])], 9, at(2)),
        [(1, News::Gone)]
    );
    assert_eq!(report(&mut roll, vec![seen(2, &[])], 9, at(3)), []);
    assert_eq!(states(&roll), ["gone", "new"]);
    let both = vec![seen(1, &[]), seen(2, &[])];
    assert_eq!(report(&mut roll, both, 9, at(4)), [(1, News::Back)]);
    assert_eq!(states(&roll), ["new", "new"]);
    let row = roll.agents().sightings().all().next().unwrap();
    assert_eq!((row.first_seen, row.gone_at), (at(0), None));
}

/// Secrets that are handed down: told once, and again when there are more than ever since it was gone.
#[test]
fn what_is_handed_down_is_news_when_it_grows() {
    let mut roll = roll();
    let hands = |rows: &[(&str, Heir, u32)]| {
        let row = |(variable, by, count): &(&str, Heir, u32)| Inherited {
            variable: Shown::of(variable),
            by: *by,
            count: *count,
        };
        let inherited = rows.iter().map(row).collect();
        vec![Sighted {
            inherited,
            ..seen(1, &[])
        }]
    };
    let mut tell = |told: Vec<Sighted>, seconds: u64| {
        let settled = settle(&roll, &mine(), told.clone(), 9, at(seconds));
        let grows: Vec<bool> = settled
            .changed
            .iter()
            .map(|changed| changed.hands_down_more)
            .collect();
        report(&mut roll, told, 9, at(seconds));
        let row = roll.agents().sightings().all().next().unwrap();
        let kept = row.seen.inherited.iter().map(|one| one.count).collect();
        (grows, kept)
    };
    let (shell, tool) = (("A_KEY", Heir::Shell), ("A_KEY", Heir::Tool));
    let of = |(name, by): (&'static str, Heir), count| (name, by, count);
    assert_eq!(tell(hands(&[]), 0), (vec![false], vec![]));
    assert_eq!(tell(hands(&[of(shell, 1)]), 1), (vec![true], vec![1]));
    // The same, fewer, none: nothing is written.
    for count in [1, 0] {
        let told = hands(&[of(shell, count)]);
        assert_eq!(tell(told, 2), (vec![], vec![1]));
    }
    assert_eq!(tell(hands(&[]), 3), (vec![], vec![1]));
    assert_eq!(tell(hands(&[of(shell, 2)]), 4), (vec![true], vec![2]));
    let both = hands(&[of(shell, 1), of(tool, 5)]);
    assert_eq!(tell(both.clone(), 5), (vec![true], vec![2, 5]));
    // Written now and then, with what was the most.
    assert_eq!(tell(hands(&[]), 700), (vec![false], vec![2, 5]));
    // Gone, and back: all of it is new.
    assert_eq!(tell(vec![], 701), (vec![false], vec![]));
    assert_eq!(tell(both, 702), (vec![true], vec![1, 5]));
}

#[test]
fn a_node_has_so_much_room_and_what_is_gone_longest_makes_some() {
    let mut roll = roll();
    report(&mut roll, vec![seen(1, &[]), seen(2, &[])], 2, at(0));
    let settled = settle(
        &roll,
        &mine(),
        vec![seen(1, &[]), seen(2, &[]), seen(3, &[])],
        2,
        at(1),
    );
    assert_eq!((settled.kept, settled.dropped), (2, 1));
    report(&mut roll, vec![seen(2, &[])], 2, at(2));
    report(&mut roll, vec![], 2, at(3));
    assert_eq!(
        report(&mut roll, vec![seen(3, &[])], 2, at(4)),
        [(3, News::New)]
    );
    let left: Vec<String> = roll
        .agents()
        .sightings()
        .all()
        .map(|row| row.seen.key.to_string())
        .collect();
    assert_eq!(left, [key(2).to_string(), key(3).to_string()]);
    assert_eq!(roll.agents().sightings().of_node.get(&mine()), Some(&2));
}

/// Every way in which a process can stand to the roll.
#[test]
fn how_it_stands() {
    let mut roll = roll();
    let put = |class| Change::Agent(AgentChange::PutClass(Arc::new(class)));
    let mut meant = active(class("coder"));
    meant.spec.attestation = selectors(&["unix:path:/usr/bin/claude"]);
    let mut other = active(class("editor"));
    other.spec.attestation = selectors(&["unix:path:/usr/bin/vim"]);
    let mut named = entry("e", &mine(), &id("/batch"), &["unix:uid:1000"]);
    named.class = Some(name("reader"));
    apply(
        &mut roll,
        &[
            put(active(class("reader"))),
            put(active(class("claude-code"))),
            put(active(class("codex"))),
            put(other),
            Change::PutEntry(Arc::new(named)),
        ],
    );
    let mut table = String::new();
    let mut tell = |roll: &Roll, when: &str| {
        writeln!(table, "{when}").unwrap();
        for identities in [
            &[][..],
            &["/web"],
            &["/agent/nobody/1"],
            &["/agent/reader/1"],
            &["/batch"],
            &["/agent/claude-code/1"],
            &["/agent/codex/1"],
            &["/agent/editor/1"],
            &["/agent/coder/1"],
            &["/web", "/agent/reader/1"],
        ] {
            let settled = settle(roll, &mine(), vec![seen(1, identities)], 9, at(0));
            let row = &settled.changed[0].row;
            let classes: Vec<&str> = row.classes.iter().map(ClassName::as_str).collect();
            let expected = row.expected.as_ref().map_or("-", ClassName::as_str);
            writeln!(
                table,
                "  {identities:?}: {}, of {classes:?}, expected {expected}",
                row.standing
            )
            .unwrap();
        }
    };
    tell(&roll, "a class is called as the product is:");
    apply(&mut roll, &[put(meant)]);
    tell(&roll, "a class says that such processes are its agents:");
    insta::assert_snapshot!(table);
}

/// Nodes tell nothing twice, so what a class is changed to is applied to what they told.
#[test]
fn a_change_of_a_class_judges_what_was_told_before() {
    let mut roll = roll();
    let reader = |providers: &[&str]| {
        let mut class = active(class("reader"));
        let words = providers.iter().map(|name| Word::parse(name).unwrap());
        class.spec.allowed_providers = words.collect();
        Change::Agent(AgentChange::PutClass(Arc::new(class)))
    };
    apply(&mut roll, &[reader(&[])]);
    let told = Sighted {
        providers: vec![Word::parse("openai").unwrap()],
        ..seen(1, &["/agent/reader/1"])
    };
    report(
        &mut roll,
        vec![told, seen(2, &["/agent/other/1"])],
        9,
        at(0),
    );
    assert_eq!(states(&roll), ["new", "new"]);

    let allowed = [reader(&["openai"])];
    let changed = follow(&roll, &allowed, at(60));
    assert_eq!(changed.len(), 1);
    let row = &changed[0].row;
    assert_eq!(
        (row.standing, changed[0].news),
        (SightingStanding::Registered, News::Standing)
    );
    // It was not seen by that.
    assert_eq!((row.last_seen, row.first_seen), (at(0), at(0)));

    // What changes nothing about it, or is gone, is left alone.
    assert!(follow(&roll, &[reader(&["anthropic"])], at(60)).is_empty());
    report(&mut roll, Vec::new(), 9, at(61));
    assert!(follow(&roll, &allowed, at(62)).is_empty());
}

/// A class that names no providers allows none; an agent of two classes needs the word of both.
#[test]
fn a_registered_agent_may_use_the_providers_that_its_class_allows() {
    let mut roll = roll();
    let allowing = |class_name: &str, providers: &[&str]| {
        let mut class = active(class(class_name));
        let words = providers.iter().map(|name| Word::parse(name).unwrap());
        class.spec.allowed_providers = words.collect();
        Change::Agent(AgentChange::PutClass(Arc::new(class)))
    };
    let mut of_both = entry("e", &mine(), &id("/agent/reader/2"), &["unix:uid:1000"]);
    of_both.class = Some(name("writer"));
    let changes = [
        allowing("reader", &["anthropic", "local"]),
        allowing("writer", &["openai"]),
        allowing("nothing", &[]),
        Change::PutEntry(Arc::new(of_both)),
    ];
    apply(&mut roll, &changes);
    let check = |roll: &Roll, identity: &str, providers: &[&str], expected: &[&str]| {
        let words = providers.iter().map(|name| Word::parse(name).unwrap());
        let told = Sighted {
            providers: words.collect(),
            ..seen(1, &[identity])
        };
        let settled = settle(roll, &mine(), vec![told], 9, at(0));
        let row = &settled.changed[0].row;
        let standing = if expected.is_empty() {
            SightingStanding::Registered
        } else {
            SightingStanding::ProviderNotAllowed
        };
        assert_eq!(row.standing, standing, "{identity} {providers:?}");
        let found: Vec<String> = not_allowed(roll, row).iter().map(Word::to_string).collect();
        assert_eq!(found, expected);
        // There is nothing to register; it is not as it should be, and an operator can say so.
        assert_eq!(proposal(roll, row), None);
        assert_eq!(row.state() == SightingState::New, !expected.is_empty());
    };
    check(&roll, "/agent/reader/1", &[], &[]);
    check(&roll, "/agent/reader/1", &["anthropic"], &[]);
    check(
        &roll,
        "/agent/reader/1",
        &["anthropic", "groq", "openai"],
        &["groq", "openai"],
    );
    check(&roll, "/agent/nothing/1", &["anthropic"], &["anthropic"]);
    check(&roll, "/agent/nothing/1", &[], &[]);
    check(&roll, "/agent/reader/2", &["anthropic"], &["anthropic"]);

    // That a class allows it from now on is news when the node tells it again.
    let told = || Sighted {
        providers: vec![Word::parse("groq").unwrap()],
        ..seen(1, &["/agent/reader/1"])
    };
    report(&mut roll, vec![told()], 9, at(0));
    apply(&mut roll, &[allowing("reader", &["groq"])]);
    assert_eq!(
        report(&mut roll, vec![told()], 9, at(1)),
        [(1, News::Standing)]
    );
    assert_eq!(states(&roll), ["registered"]);
}

#[test]
fn an_entry_is_proposed_that_fits() {
    let mut roll = roll();
    report(&mut roll, vec![seen(1, &[])], 9, at(0));
    let row = Arc::clone(roll.agents().sightings().all().next().unwrap());
    let first = proposal(&roll, &row).unwrap();
    assert_eq!(first.id, id("/agent/claude-code/000000000000"));
    assert_eq!(
        first.selectors,
        selectors(&["unix:path:/usr/bin/claude", "unix:uid:1000"])
    );
    assert!(first.class.is_none() && first.caution.contains("no active class"));
    // With the class, nothing is missing.
    let class = active(class("claude-code"));
    apply(
        &mut roll,
        &[Change::Agent(AgentChange::PutClass(Arc::new(class)))],
    );
    report(&mut roll, vec![seen(1, &[])], 9, at(1));
    let row = Arc::clone(roll.agents().sightings().all().next().unwrap());
    let second = proposal(&roll, &row).unwrap();
    assert_eq!(
        (second.class, second.caution),
        (Some(name("claude-code")), "")
    );
    // The user alone is told of.
    let mut broad = Sighting::clone(&row);
    broad.seen.facts = selectors(&["unix:uid:1000"]);
    assert!(
        proposal(&roll, &broad)
            .unwrap()
            .caution
            .contains("discover_path")
    );
    let mut none = broad.clone();
    none.seen.facts = selectors(&[]);
    assert!(proposal(&roll, &none).is_none());
    assert!(proposal(&roll, &gone_by(&row, at(2))).is_none());
}

#[test]
fn what_is_due() {
    let mut roll = roll();
    report(&mut roll, vec![seen(1, &[]), seen(2, &[])], 9, at(0));
    report(&mut roll, vec![seen(2, &[])], 9, at(10));
    let day = Duration::from_hours(24);
    assert_eq!(due(&roll, day, at(11), 9), (Vec::new(), Vec::new()));
    let (forgotten, orphaned) = due(&roll, day, at(10).plus(day), 9);
    assert_eq!((forgotten.len(), orphaned.len()), (1, 0));
    apply(&mut roll, &[Change::DeleteNode(mine())]);
    let (_, orphaned) = due(&roll, day, at(12), 9);
    assert_eq!(orphaned.len(), 1);
    assert_eq!(orphaned[0].state(), SightingState::Gone);
}

#[test]
fn lists_and_counts() {
    let mut roll = roll();
    report(&mut roll, (0..5).map(|n| seen(n, &[])).collect(), 9, at(0));
    let mut other = seen(1, &["/agent/claude-code/1"]);
    other.kind = SightingKind::McpServer;
    let elsewhere = id("/spire/agent/y/1");
    let class = world::active(class("claude-code"));
    apply(
        &mut roll,
        &[Change::Agent(AgentChange::PutClass(Arc::new(class)))],
    );
    let settled = settle(&roll, &elsewhere, vec![other], 9, at(100));
    let row = settled.changed.into_iter().next().unwrap().row;
    apply(
        &mut roll,
        &[Change::Agent(AgentChange::PutSighting(Arc::new(row)))],
    );
    let sightings = roll.agents().sightings();
    let count = |filter: SightingFilter| sightings.list(&filter, None, 0).rows.len();
    assert_eq!(count(SightingFilter::default()), 6);
    let unregistered = SightingFilter {
        unregistered: true,
        ..SightingFilter::default()
    };
    assert_eq!(count(unregistered), 5);
    let of_node = SightingFilter {
        node: Some(elsewhere),
        ..SightingFilter::default()
    };
    assert_eq!(count(of_node), 1);
    let kinds = [SightingKind::Cli].into();
    assert_eq!(
        count(SightingFilter {
            kinds,
            ..SightingFilter::default()
        }),
        5
    );
    let since = Some(at(50));
    assert_eq!(
        count(SightingFilter {
            since,
            ..SightingFilter::default()
        }),
        1
    );
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = sightings.list(&SightingFilter::default(), after.as_ref(), 4);
        pages.push(page.rows.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [4, 2]);
    let counts: Vec<_> = sightings.counts().collect();
    assert_eq!(
        counts,
        [
            (SightingKind::Cli, SightingState::New, 5),
            (SightingKind::McpServer, SightingState::Registered, 1)
        ]
    );
}
