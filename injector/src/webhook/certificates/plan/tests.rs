use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use proptest::prelude::*;
use serde_json::json;

use super::super::configuration::Whose;
use super::super::shown::is_better;
use super::*;

const START: i64 = 1_800_000_000;

fn wanted() -> Wanted {
    let names = ["coffer-injector.coffer-system.svc", "coffer-injector.coffer-system", "10.0.0.1"];
    let names = names.map(str::to_owned).into();
    Wanted { names, leaf: 240, authority: 600, overlap: Duration::from_secs(30) }
}

type Data = BTreeMap<String, ByteString>;

fn data(state: &State) -> Data {
    let mut data = Data::new();
    state.write(&mut data);
    data
}

/// Our webhooks, both with this bundle.
fn hooks(bundle: &str) -> Hooks {
    let service = json!({"namespace": "coffer-system", "name": "coffer-injector", "path": "/mutate"});
    let webhook = |name: &str, bundle: &str| {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        json!({
            "name": name, "clientConfig": {"service": service, "caBundle": bundle},
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        })
    };
    let mut foreign = webhook("other.example.com", "");
    foreign["clientConfig"]["service"]["name"] = "other".into();
    let webhooks = [webhook("inject.coffer.dev", bundle), foreign, webhook("required.coffer.dev", bundle)];
    let configuration: MutatingWebhookConfiguration =
        serde_json::from_value(json!({"metadata": {"name": "coffer-injector"}, "webhooks": webhooks})).unwrap();
    let (namespace, name) = ("coffer-system".to_owned(), "coffer-injector".to_owned());
    Hooks::of(&configuration, &Whose::Service { namespace, name }).unwrap()
}

fn step(state: State, step: Step, known: &[Certificate], now: i64) -> State {
    state.after(step, &wanted(), known, now).unwrap()
}

fn settled(seconds: u64) -> Sight {
    Sight { settled: Some(Duration::from_secs(seconds)), takes_shown: true, takes_leaf: true }
}

#[test]
fn a_rotation_goes_step_by_step() {
    let plan = |state: &State, sight, now| plan(state, &wanted(), sight, now);
    let state = State::default();
    assert_eq!(plan(&state, Sight::default(), START), Some(Step::Anew));
    let state = step(state, Step::Anew, &[], START);
    let first = state.trusted.clone();
    assert_eq!((first.len(), plan(&state, settled(0), START)), (1, None));
    // 2/3 of 240 s, somewhat less by chance.
    assert_eq!(plan(&state, settled(100), START + 147), None);
    assert_eq!(plan(&state, settled(100), START + 160), Some(Step::Leaf));
    let state = step(state, Step::Leaf, &[], START + 160);
    assert_eq!(plan(&state, settled(1000), START + 300), None);
    let state = step(state, Step::Leaf, &[], START + 310);
    assert_eq!(plan(&state, settled(1000), START + 400), Some(Step::Join));
    let state = step(state, Step::Join, &[], START + 400);
    assert_eq!((state.trusted.len(), &state.trusted[0]), (2, &first[0]));
    assert!(state.leaf.as_ref().unwrap().certified.cert == step_leaf(&state));
    for sight in [settled(29), Sight { settled: None, ..settled(0) }] {
        assert_eq!(plan(&state, sight, START + 429), None);
    }
    assert_eq!(plan(&state, settled(30), START + 430), Some(Step::Switch));
    let state = step(state, Step::Switch, &[], START + 430);
    assert_eq!((state.trusted.len(), state.trusted[0] != first[0]), (2, true));
    assert_eq!(plan(&state, settled(29), START + 459), None);
    assert_eq!(plan(&state, settled(30), START + 460), Some(Step::Drop));
    let state = step(state, Step::Drop, &[], START + 460);
    assert_eq!((state.trusted.len(), plan(&state, settled(0), START + 460)), (1, None));
    assert_ne!(state.trusted, first);
}

fn step_leaf(state: &State) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    state.leaf.as_ref().unwrap().chain.iter().map(|one| one.der.clone()).collect()
}

#[test]
fn what_is_lost_is_made_anew_and_nothing_that_works_is_given_up() {
    let made = step(State::default(), Step::Anew, &[], START);
    let all = data(&made);
    let works = settled(1000);
    let broken = Sight { takes_shown: false, takes_leaf: false, ..works };
    let foreign = Sight { takes_leaf: false, ..works };
    let garbage = || ByteString(b"-----BEGIN CERTIFICATE-----\ngarbage\n".to_vec());
    for (gone, sight, due, faulty) in [
        (&[][..], works, None, false),
        // The API server knows another CA, and takes what this replica shows.
        (&[], foreign, Some(Step::Rejoin), false),
        // It takes nothing: it is told, and no more is to be done.
        (&[], broken, None, false),
        (&["tls.crt"], works, Some(Step::Leaf), true),
        (&["tls.key"], works, Some(Step::Leaf), true),
        (&["tls.crt", "tls.key"], works, Some(Step::Leaf), false),
        (&["ca.key"], works, Some(Step::Join), false),
        (&["ca.crt"], works, Some(Step::Join), true),
        (&["ca.crt"], broken, Some(Step::Anew), true),
        (&["ca.crt", "ca.key", "tls.crt", "tls.key"], works, Some(Step::Join), false),
        (&["ca.crt", "ca.key", "tls.crt", "tls.key"], broken, Some(Step::Anew), false),
    ] {
        let mut some = all.clone();
        some.retain(|key, _| !gone.contains(&key.as_str()));
        let (state, faults) = State::read(&some);
        assert_eq!(plan(&state, &wanted(), sight, START + 1), due, "without {gone:?}");
        assert_eq!(!faults.is_empty(), faulty, "without {gone:?}: {faults:?}");
        some.extend(gone.iter().map(|key| ((*key).to_owned(), garbage())));
        let (state, faults) = State::read(&some);
        assert_eq!(plan(&state, &wanted(), sight, START + 1), due, "garbage in {gone:?}");
        assert_eq!(faults.is_empty(), gone.is_empty(), "garbage in {gone:?}: {faults:?}");
    }
}

#[test]
fn a_clock_that_is_set_makes_what_is_not_good_anew() {
    let made = data(&step(State::default(), Step::Anew, &[], START));
    for (now, due) in [
        (START - SKEW - 1, Some(Step::Anew)),
        (START - SKEW, None),
        (START - 100, None),
        (START + 241, Some(Step::Leaf)),
        (START + 601, Some(Step::Anew)),
        (START + 1_000_000_000, Some(Step::Anew)),
        (60, Some(Step::Anew)),
        (-1, Some(Step::Anew)),
        (i64::MAX, Some(Step::Anew)),
    ] {
        let (state, _) = State::read(&made);
        assert_eq!(plan(&state, &wanted(), Sight::default(), now), due, "{now}");
        if let Some(due) = due.filter(|_| (0..250_000_000_000).contains(&now)) {
            let state = step(state, due, &[], now);
            assert_eq!(plan(&state, &wanted(), Sight::default(), now), None, "{now}");
        }
    }
}

#[test]
fn other_names_and_shorter_lives_are_taken_over() {
    let state = step(State::default(), Step::Anew, &[], START);
    let mut other = wanted();
    other.names.push("webhook.example.com".to_owned());
    assert_eq!(plan(&state, &other, settled(0), START), Some(Step::Leaf));
    let state = state.after(Step::Leaf, &other, &[], START).unwrap();
    assert_eq!(plan(&state, &other, settled(0), START), None);
    // One that is for more names than are wanted is good.
    assert_eq!(plan(&state, &wanted(), settled(0), START), None);
    let short = Wanted { leaf: 60, ..wanted() };
    assert_eq!(plan(&state, &short, settled(0), START + 30), None);
    assert_eq!(plan(&state, &short, settled(0), START + 41), Some(Step::Leaf));
}

#[test]
fn toward_the_end_of_its_ca_a_leaf_is_not_made_again_and_again() {
    let mut state = step(State::default(), Step::Anew, &[], START);
    let mut leaves = 0;
    for now in START..START + 600 {
        // The API server never hears of the next CA.
        let sight = Sight { settled: None, ..settled(0) };
        if let Some(due) = plan(&state, &wanted(), sight, now) {
            leaves += usize::from(due == Step::Leaf);
            state = step(state, due, &[], now);
        }
    }
    assert!((3..6).contains(&leaves), "{leaves}");
    // The CA has ended, and nothing is left to wait for.
    assert_eq!(plan(&state, &wanted(), Sight::default(), START + 601), Some(Step::Switch));
}

/// What befalls a cluster.
#[derive(Clone, Debug)]
enum Mishap {
    /// Another replica leads.
    NewLeader,
    /// Nobody leads for a while.
    NoLeader(u64),
    /// A replica is another, which has shown nothing yet.
    Restart(usize),
    /// Someone empties the Secret.
    Empty,
    /// Someone fills a key of it with garbage.
    Garbage(usize),
    /// Someone puts another installation's keys into it.
    Others,
}

fn mishaps() -> impl Strategy<Value = Vec<(u64, Mishap)>> {
    let mishap = prop_oneof![
        3 => Just(Mishap::NewLeader),
        2 => (1_u64..40).prop_map(Mishap::NoLeader),
        3 => (0_usize..3).prop_map(Mishap::Restart),
        1 => Just(Mishap::Empty),
        1 => (0_usize..5).prop_map(Mishap::Garbage),
        1 => Just(Mishap::Others),
    ];
    proptest::collection::vec((0_u64..1500, mishap), 0..8)
}

/// What the API server takes, remembered: to verify is what takes the time here.
#[derive(Default)]
struct Takes(RefCell<HashMap<(usize, Vec<u8>), bool>>);

impl Takes {
    fn ask(&self, hooks: &Arc<Hooks>, leaf: &Leaf, now: i64) -> bool {
        let certificate = leaf.certificate();
        let key = (Arc::as_ptr(hooks).addr(), certificate.der.to_vec());
        // No CA ends before its leaf.
        let mut known = self.0.borrow_mut();
        certificate.is_valid(now) && *known.entry(key).or_insert_with(|| hooks.take(&leaf.chain, now).is_ok())
    }
}

/// Something that everyone sees as it was a while ago.
struct Lagging<T>(Vec<(u64, Arc<T>)>);

impl<T> Lagging<T> {
    fn set(&mut self, at: u64, value: T) {
        self.0.push((at, Arc::new(value)));
    }

    fn at(&self, at: u64) -> Arc<T> {
        let found = self.0.iter().rev().find(|(since, _)| *since <= at).or(self.0.first());
        Arc::clone(&found.unwrap().1)
    }
}

#[derive(Default)]
struct Replica {
    shown: Option<Leaf>,
    /// The versions that it saw last: it never sees an earlier one.
    seen: (u64, u64),
}

proptest! {
    // Each takes as long as a hundred of others; with PROPTEST_CASES, as in tests/properties, as many more.
    #![proptest_config(ProptestConfig { cases: (ProptestConfig::default().cases / 128).max(1), ..ProptestConfig::default() })]

    /// At every moment of every rotation, whatever befalls the Secret and the leader: what a replica that is ready
    /// shows, the API server takes, with each of them up to an overlap behind.
    #[test]
    fn the_api_server_takes_what_is_shown(mut mishaps in mishaps(), lags in proptest::collection::vec(0_u64..30, 64)) {
        mishaps.sort_by_key(|(at, _)| *at);
        let mut mishaps = mishaps.into_iter().peekable();
        let (base, takes) = (Instant::now(), Takes::default());
        let first = State::default().after(Step::Anew, &wanted(), &[], START).unwrap();
        let mut api = Lagging(vec![(0, Arc::new(hooks(&first.bundle())))]);
        let mut secret = data(&first);
        let mut states = Lagging(vec![(0, Arc::new(first))]);
        let mut replicas = [Replica::default(), Replica::default(), Replica::default()];
        let (mut leader, mut away, mut settled) = (0_usize, 0_u64, None);
        let (mut authorities, mut prompt) = (0, 0);
        for at in (0_u64..1500).step_by(3) {
            let now = START + i64::try_from(at).unwrap();
            while let Some((_, mishap)) = mishaps.next_if(|(when, _)| *when <= at) {
                match mishap {
                    Mishap::NewLeader => (leader, settled) = ((leader + 1) % 3, None),
                    Mishap::NoLeader(long) => away = at + long,
                    Mishap::Restart(which) => replicas[which].shown = None,
                    Mishap::Empty => secret.clear(),
                    Mishap::Garbage(which) => {
                        let key = ["ca.crt", "ca.key", "tls.crt", "tls.key", "next.key"][which];
                        secret.insert(key.to_owned(), ByteString(b"garbage".to_vec()));
                    }
                    Mishap::Others => {
                        // Their leaf stands in the Secret until the leader takes it away. A replica that is behind may
                        // yet find it and that the API server knows its CA: then that has to be so.
                        prompt = at + 90;
                        secret = data(&State::default().after(Step::Anew, &wanted(), &[], now).unwrap());
                    }
                }
                states.set(at, State::read(&secret).0);
            }
            if at >= away {
                let state = states.at(at);
                let hooks_now = api.at(at);
                let clocks = Clocks { steady: base + Duration::from_secs(at), wall: now };
                let shown = replicas[leader].shown.as_ref();
                let due = Due::of(&state, Some(&hooks_now), shown, &wanted(), &mut settled, clocks);
                if let Due::Do(step) = due {
                    authorities += usize::from(matches!(step, Step::Join | Step::Anew));
                    let (state, _) = State::read(&secret);
                    state.after(step, &wanted(), &hooks_now.known(now), now).unwrap().write(&mut secret);
                    states.set(at, State::read(&secret).0);
                }
                let state = states.at(at);
                if !hooks_now.trust_only(&state.trusted) {
                    api.set(at, hooks(&state.bundle()));
                }
            }
            for (index, replica) in replicas.iter_mut().enumerate() {
                let lag = |salt: usize| lags[(usize::try_from(at / 7).unwrap() * 5 + index * 11 + salt) % lags.len()];
                // Who leads is no slower in this than others.
                replica.seen.0 = replica.seen.0.max(at.saturating_sub(lag(0)));
                replica.seen.1 = replica.seen.1.max(at.saturating_sub(lag(3)));
                let (state, known) = (states.at(replica.seen.0), api.at(replica.seen.1));
                if let Some(leaf) = &state.leaf && is_better(leaf, replica.shown.as_ref(), |leaf| takes.ask(&known, leaf, now)) {
                    replica.shown = Some(leaf.clone());
                }
                let Some(shown) = &replica.shown else { continue };
                let api_server = api.at(if at < prompt { at } else { at.saturating_sub(lag(7)) });
                if takes.ask(&known, shown, now) && !takes.ask(&api_server, shown, now) {
                    prop_assert!(false, "at {at}, replica {index}: {:?}", api_server.take(&shown.chain, now));
                }
            }
        }
        prop_assert!(authorities >= 2, "only {authorities} CAs were made");
        // Whatever befell it, in the end nothing is left to be done but what is due.
        let (state, faults) = State::read(&secret);
        prop_assert!(faults.is_empty(), "{faults:?}");
        prop_assert!(state.trusted.len() <= 3, "{}", state.trusted.len());
    }
}
