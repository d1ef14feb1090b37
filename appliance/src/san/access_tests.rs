//! The rules of access: what is added, what goes, what is refused, and what old and newer documents mean.

use std::net::SocketAddr;

use iscsi_target::access::{AccessPolicy, Caller};
use uuid::Uuid;

use super::access::{AccessRecord, RuleRecord};
use super::allow::{add_account, allow, deny, remove_account, set_chap};
use super::edit::{self, Edit, SanError};
use super::*;

const IQN: &str = "iqn.2026-11.org.labsan:a";
const NODE: &str = "iqn.2026-11.org.example:node1";

fn after(edit: Edit) -> SanDocument {
    edit.next.expect("a change")
}

/// A target with the accounts `one` and `two`.
fn target() -> SanDocument {
    let document = SanDocument::empty(Uuid::from_u128(1));
    let document = after(edit::create_target(&document, IQN, None).unwrap());
    let document = after(add_account(&document, IQN, account("one", "the first secret")).unwrap());
    after(add_account(&document, IQN, account("two", "the second secret")).unwrap())
}

fn account(user: &str, secret: &str) -> Account {
    Account { user: user.into(), secret: secret.into() }
}

fn rule(initiator: &str, account: &str, network: &str, portal: &str) -> RuleRecord {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    RuleRecord {
        initiator: given(initiator),
        account: given(account),
        network: given(network),
        portal: given(portal),
        ..RuleRecord::default()
    }
}

fn allowed(document: &SanDocument, rule: RuleRecord) -> SanDocument {
    after(allow(document, IQN, rule, None).unwrap())
}

fn access(document: &SanDocument) -> &AccessRecord {
    &document.targets[0].access
}

fn lets_in(policy: &AccessPolicy, peer: &str) -> bool {
    let peer = SocketAddr::new(peer.parse().unwrap(), 1);
    let local = "10.0.0.9:3260".parse().unwrap();
    policy.admits(Caller { initiator: NODE, peer, local }).is_some()
}

#[test]
fn rules_are_kept_as_they_are_always_written_and_repeats_change_nothing() {
    let one = allowed(&target(), rule(NODE, "one", "::ffff:10.0.0.0/104", "::ffff:10.0.0.9"));
    assert_eq!(access(&one).rules, [rule(NODE, "one", "10.0.0.0/8", "10.0.0.9")]);
    assert_eq!(allow(&one, IQN, rule(NODE, "one", "10.0.0.0/8", "10.0.0.9"), None).unwrap().next, None);
    assert!(
        lets_in(&access(&one).policy(IQN), "10.1.1.1") && !lets_in(&access(&one).policy(IQN), "11.1.1.1")
    );
    let two = allowed(&one, rule(NODE, "", "", ""));
    assert_eq!(
        (access(&two).initiators.as_slice(), access(&two).rules.len()),
        ([NODE.to_owned()].as_slice(), 1)
    );
}

#[test]
fn a_wider_rule_is_told_of_when_a_narrow_one_is_added() {
    let one = allowed(&target(), rule("iqn.2026-11.org.example:*", "", "", ""));
    let edit = allow(&one, IQN, rule(NODE, "one", "", ""), None).unwrap();
    assert!(edit.message.ends_with("\"iqn.2026-11.org.example:*\" lets it in anyway"), "{}", edit.message);
    let two = allowed(&target(), rule("iqn.2026-11.org.example:*", "two", "", ""));
    let edit = allow(&two, IQN, rule(NODE, "one", "", ""), None).unwrap();
    assert!(!edit.message.contains("anyway"), "{}", edit.message);
}

#[test]
fn rules_that_would_protect_nothing_or_let_nobody_in_are_refused() {
    let document = target();
    let refused = |rule| allow(&document, IQN, rule, None).unwrap_err();
    assert!(matches!(refused(rule("", "", "10.0.0.0/8", "")), SanError::RuleOfNobody { .. }));
    assert!(matches!(refused(rule("", "", "", "")), SanError::RuleOfNobody { .. }));
    assert!(matches!(refused(rule(NODE, "three", "", "")), SanError::NoAccount { .. }));
    assert!(matches!(refused(rule(NODE, "", "10.0.0.1/8", "")), SanError::Address(_)));
    assert!(matches!(refused(rule(NODE, "", "", "0.0.0.0")), SanError::Address(_)));
    assert!(matches!(refused(rule("node1", "", "", "")), SanError::Name(_)));
    assert!(matches!(deny(&document, IQN, RuleRecord::default()), Err(SanError::RuleOfNobody { .. })));
}

#[test]
fn deny_takes_away_every_rule_that_has_all_conditions() {
    let mut document = target();
    for rule in [
        rule(NODE, "", "", ""),
        rule(NODE, "one", "", ""),
        rule(NODE, "one", "10.0.0.0/8", ""),
        rule("", "two", "10.0.0.0/8", ""),
    ] {
        document = allowed(&document, rule);
    }
    let left = |wanted| access(&after(deny(&document, IQN, wanted).unwrap())).count();
    assert_eq!(left(rule("", "one", "", "")), 2);
    assert_eq!(left(rule("", "", "10.0.0.0/8", "")), 2);
    assert_eq!(left(rule(NODE, "one", "10.0.0.0/8", "")), 3);
    assert_eq!(deny(&document, IQN, rule("", "one", "11.0.0.0/8", "")).unwrap().next, None);
    // To shut a name out is more than to take its rules away.
    let error = deny(&document, IQN, rule(NODE, "", "", "")).unwrap_err();
    assert!(
        matches!(&error, SanError::LetInByPattern { rule, .. } if rule.account.as_deref() == Some("two"))
    );
    let hint = error.hint().unwrap();
    assert!(hint.ends_with(&format!("deny {IQN} --account 'two' --network '10.0.0.0/8'")), "{hint}");
    let document = after(deny(&document, IQN, rule("", "two", "", "")).unwrap());
    assert_eq!(access(&after(deny(&document, IQN, rule(NODE, "", "", "")).unwrap())).count(), 0);
}

#[test]
fn an_account_goes_only_after_the_rules_that_ask_for_it() {
    let document = allowed(&target(), rule(NODE, "two", "", ""));
    let in_rule = |refused| assert!(matches!(refused, Err(SanError::AccountInRule { .. })), "{refused:?}");
    in_rule(remove_account(&document, IQN, "two"));
    in_rule(set_chap(&document, IQN, Chap::default()));
    let one = after(remove_account(&document, IQN, "one").unwrap());
    assert_eq!(remove_account(&one, IQN, "one").unwrap().next, None);
    let free = after(deny(&one, IQN, rule("", "two", "", "")).unwrap());
    assert!(
        matches!(remove_account(&free, IQN, "two"), Err(SanError::LastAccount { .. })),
        "CHAP would be off"
    );
    let off = after(set_chap(&free, IQN, Chap::default()).unwrap());
    assert!(off.targets[0].chap.accounts.is_empty());
}

#[test]
fn a_second_account_leaves_the_first_and_a_secret_can_be_changed() {
    let document = target();
    assert_eq!(document.targets[0].chap.accounts.len(), 2);
    assert_eq!(add_account(&document, IQN, account("one", "the first secret")).unwrap().next, None);
    let changed = after(add_account(&document, IQN, account("one", "another secret")).unwrap());
    let accounts = &changed.targets[0].chap.accounts;
    assert_eq!(accounts[..], [account("one", "another secret"), account("two", "the second secret")]);
    assert!(matches!(add_account(&document, IQN, account("x", "short")), Err(SanError::Name(_))));
}

#[test]
fn documents_from_before_there_were_rules_mean_what_they_meant() {
    let old = serde_json::json!({"initiators": ["iqn.2026-11.org.example:*"], "loopback_only": true});
    let record: AccessRecord = serde_json::from_value(old.clone()).unwrap();
    assert!(lets_in(&record.policy(IQN), "127.0.0.1") && !lets_in(&record.policy(IQN), "10.0.0.1"));
    assert_eq!(serde_json::to_value(&record).unwrap(), old, "and are written as they were");
    let mut document = target();
    assert_eq!(document.schema, 1, "an older labsan reads what it can serve rightly");
    document = allowed(&document, rule(NODE, "one", "", ""));
    assert_eq!(document.schema, 2);
    let read = SanDocument::from_json(serde_json::to_value(&document).unwrap()).unwrap();
    assert_eq!(read.as_ref(), Some(&document));
    assert_eq!(after(deny(&document, IQN, rule(NODE, "", "", "")).unwrap()).schema, 1);
}

#[test]
fn a_rule_that_is_not_understood_lets_nobody_in() {
    for condition in [r#""weekdays": "mon-fri""#, r#""network": "everywhere""#, r#""portal": "front""#] {
        let json = format!(r#"{{"rules": [{{"initiator": "*", {condition}}}]}}"#);
        let record: AccessRecord = serde_json::from_str(&json).unwrap();
        assert!(!lets_in(&record.policy(IQN), "127.0.0.1"), "{condition}");
        let again: serde_json::Value = serde_json::to_value(&record).unwrap();
        assert!(again.to_string().contains(condition.split('"').nth(1).unwrap()), "{again} is carried along");
    }
}
