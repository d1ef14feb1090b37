//! Who is let in, measured again, and told of the end.

use super::session::tell_at;
use super::*;
use crate::chap::{Account, Secret};
use crate::limits;

const NAME: &str = "iqn.2026-11.org.labsan:t";

fn account(name: &str) -> Account {
    Account { name: name.into(), secret: Secret::new(format!("the secret of {name}")) }
}

fn connected(account: Option<&str>) -> Connected {
    Connected {
        peer: "10.0.0.1:4000".parse().unwrap(),
        local: "10.0.0.9:3260".parse().unwrap(),
        account: account.map(str::to_owned),
    }
}

fn bound_to(accounts: &[&str]) -> AccessPolicy {
    let rule = |name: &&str| crate::access::AccessRule {
        account: Some((*name).to_owned()),
        ..crate::access::AccessRule::initiator("*")
    };
    AccessPolicy { rules: accounts.iter().map(rule).collect(), loopback_only: false }
}

#[test]
fn a_rule_with_an_account_leaves_only_that_account_to_log_in_by() {
    let registry = TargetRegistry::new();
    registry.create_target(NAME, None).unwrap();
    let (peer, local) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.9:3260".parse().unwrap());
    let caller = Caller { initiator: "iqn.2026-11.x:a", peer, local };
    let names = || -> Result<Vec<String>, Refusal> {
        let policy = registry.admit(caller, NAME)?;
        Ok(policy.accounts.into_iter().map(|account| account.name).collect())
    };
    assert_eq!(names(), Err(Refusal::Forbidden));
    registry.set_access(NAME, bound_to(&["b"])).unwrap();
    assert_eq!(names(), Err(Refusal::Forbidden), "the target has no account at all");
    let chap = ChapPolicy { accounts: vec![account("a"), account("b"), account("c")], mutual: None };
    registry.set_chap(NAME, chap).unwrap();
    assert_eq!(names(), Ok(vec!["b".to_owned()]));
    registry.set_access(NAME, bound_to(&["gone"])).unwrap();
    assert_eq!(names(), Err(Refusal::Forbidden), "and not without CHAP either");
    registry.set_access(NAME, AccessPolicy::of_names(&["*"], false)).unwrap();
    assert_eq!(names().unwrap().len(), 3);
}

#[test]
fn a_session_is_measured_again_by_what_holds_when_it_is_entered() {
    let registry = TargetRegistry::new();
    registry.create_target(NAME, None).unwrap();
    let target = registry.target(NAME).unwrap();
    let mut info = SessionInfo {
        id: 0,
        tsih: 1,
        initiator: "iqn.2026-11.x:a".into(),
        initiator_alias: None,
        isid: [0; 6],
        portal_group: 1,
        target: Some(NAME.into()),
        connections: vec![connected(None)],
        header_digest: false,
        data_digest: false,
    };
    registry.set_access(NAME, AccessPolicy::of_names(&["*"], false)).unwrap();
    assert!(registry.still_admits(&info.initiator, &info.connections[0], &target));
    registry.set_chap(NAME, ChapPolicy { accounts: vec![account("a")], mutual: None }).unwrap();
    assert!(
        !registry.still_admits(&info.initiator, &info.connections[0], &target),
        "CHAP is asked for since"
    );
    info.connections = vec![connected(Some("a"))];
    assert!(registry.still_admits(&info.initiator, &info.connections[0], &target));
    registry.set_access(NAME, bound_to(&["b"])).unwrap();
    assert!(!registry.still_admits(&info.initiator, &info.connections[0], &target));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.block_on(registry.enter(info.clone())).unwrap();
    assert_eq!(registry.shut_out(NAME).len(), 1);
    registry.set_access(NAME, bound_to(&["b", "a"])).unwrap();
    assert!(
        registry.still_admits(&info.initiator, &info.connections[0], &target)
            && registry.shut_out(NAME).is_empty()
    );
    registry.set_chap(NAME, ChapPolicy { accounts: vec![account("b")], mutual: None }).unwrap();
    assert_eq!(registry.shut_out(NAME).len(), 1, "its account is gone");
    registry.remove_target(NAME, true).unwrap();
    registry.create_target(NAME, None).unwrap();
    registry.set_access(NAME, AccessPolicy::of_names(&["*"], false)).unwrap();
    assert!(
        !registry.still_admits(&info.initiator, &info.connections[0], &target),
        "another target of that name"
    );
}

#[tokio::test]
async fn no_initiator_has_all_connections_and_no_stranger_has_any_but_for_discovery() {
    let registry = TargetRegistry::new();
    registry.create_target(NAME, None).unwrap();
    let info = |initiator: &str, number: u16, target: Option<&str>| SessionInfo {
        id: 0,
        tsih: number,
        initiator: initiator.into(),
        initiator_alias: None,
        isid: [0, 0, 0, 0, (number >> 8) as u8, number as u8],
        portal_group: 1,
        target: target.map(str::to_owned),
        connections: Vec::new(),
        header_digest: false,
        data_digest: false,
    };
    let mut entered = Vec::new();
    for number in 0..limits::MAX_CONNECTIONS_OF_INITIATOR as u16 {
        entered.push(registry.enter(info("greedy", number, Some(NAME))).await.unwrap());
    }
    for number in 0..limits::MAX_DISCOVERIES as u16 {
        entered.push(registry.enter(info(&format!("stranger{number}"), number, None)).await.unwrap());
    }
    for (initiator, target) in [("greedy", Some(NAME)), ("another", None)] {
        let refused = registry.enter(info(initiator, 5000, target)).await;
        assert_eq!(refused.err(), Some(Refusal::OutOfResources), "{initiator}");
    }
    let (node, _messages) = registry.enter(info("node", 7000, Some(NAME))).await.unwrap();
    registry.set_connections(node.id, vec![connected(None); limits::MAX_CONNECTIONS_OF_INITIATOR]);
    assert_eq!(registry.to_join(&info("node", 7000, Some(NAME))).err(), Some(Refusal::OutOfResources));
    entered.clear();
    registry.enter(info("greedy", 5000, Some(NAME))).await.unwrap();
    registry.enter(info("another", 5000, None)).await.unwrap();
}

#[test]
fn names_are_unique_and_secrets_differ() {
    let registry = TargetRegistry::new();
    registry.create_target("iqn.2026-11.org.labsan:t", None).unwrap();
    let again = registry.create_target("IQN.2026-11.org.labsan:T", None);
    assert!(matches!(again, Err(RegistryError::TargetExists(_))));
    assert!(matches!(registry.create_target("nonsense", None), Err(RegistryError::BadName(_))));
    let account = |name: &str| Account { name: name.into(), secret: Secret::new("same") };
    let chap = ChapPolicy { accounts: vec![account("a")], mutual: Some(account("b")) };
    let refused = registry.set_chap("iqn.2026-11.org.labsan:t", chap);
    assert_eq!(refused, Err(RegistryError::SameSecret("a".into())));
    assert!(registry.remove_target("iqn.2026-11.org.labsan:none", false).is_err());
    registry.remove_target("iqn.2026-11.org.labsan:t", false).unwrap();
}

/// It has taken its last message, and goes, between the finding of a place for another one and its use.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_session_that_ended_meanwhile() {
    let (mailbox, messages) = mpsc::channel(1);
    let place = mailbox.try_reserve().unwrap();
    drop(messages);
    let told = tell_at(&mailbox, place, |done| SessionMessage::Drop { done });
    let limit = std::time::Duration::from_secs(3600);
    tokio::time::timeout(limit, told).await.expect("waits for good");
    tell(&mailbox, |done| SessionMessage::Drop { done }).await;
}
