//! Dead letters.

use crate::rig::{Rig, persistent, table, text};
use hornpipe_types::command::Settle;
use hornpipe_types::header::Properties;
use hornpipe_types::table::Value;

fn with_copies(cc: &str, bcc: &str) -> Properties {
    let list = |key| Value::Array(vec![text(key)]);
    Properties { headers: Some(table(&[("CC", list(cc)), ("BCC", list(bcc))])), ..persistent() }
}

/// BCC keys are kept beside the message, on disk too, and no consumer sees them.
#[test]
fn bcc_keys_route_a_dead_letter_after_a_restart() {
    let mut rig = Rig::new();
    rig.exchange("dlx", "direct", &[]);
    rig.declare("q", true, &[("x-dead-letter-exchange", text("dlx"))]);
    for key in ["q", "copied", "hidden"] {
        rig.declare(&format!("by.{key}"), true, &[]);
        rig.bind(&format!("by.{key}"), "dlx", key);
    }
    rig.publish("", "q", &with_copies("copied", "hidden"), &["m"]);
    for stop in [Rig::crash, Rig::restart] {
        stop(&mut rig);
        let m = rig.get(1, "q", false).unwrap();
        assert_eq!(m.headers.get("BCC"), None);
        rig.settle(1, Settle::Nack { requeue: true }, m.tag);
    }
    let m = rig.get(1, "q", false).unwrap();
    rig.settle(1, Settle::Reject { requeue: false }, m.tag);
    rig.crash();
    for key in ["q", "copied", "hidden"] {
        let dead = rig.get(1, &format!("by.{key}"), true).unwrap_or_else(|| panic!("nothing by {key}"));
        let Some(Value::Array(deaths)) = dead.headers.get("x-death") else { panic!("{dead:?}") };
        let Some(Value::Table(death)) = deaths.first() else { panic!("{dead:?}") };
        assert_eq!(death.get("routing-keys"), Some(&Value::Array(vec![text("q"), text("copied")])));
    }
}

/// A key of its own replaces all others for good: a second death does not go by `CC` or `BCC` again.
#[test]
fn copies_are_spent_once_a_dead_letter_got_a_key() {
    let mut rig = Rig::new();
    rig.declare("q", true, &[("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("between"))]);
    rig.declare("between", true, &[("x-dead-letter-exchange", text("amq.direct"))]);
    for key in ["between", "copied", "hidden"] {
        rig.declare(&format!("by.{key}"), true, &[]);
        rig.bind(&format!("by.{key}"), "amq.direct", key);
    }
    rig.publish("", "q", &with_copies("copied", "hidden"), &["m"]);
    for queue in ["q", "between"] {
        let m = rig.get(1, queue, false).unwrap();
        assert!(m.headers.get("CC").is_some());
        rig.settle(1, Settle::Reject { requeue: false }, m.tag);
        rig.crash();
    }
    assert_eq!(rig.drain("by.between"), ["m"]);
    assert_eq!(rig.drain("by.copied"), Vec::<String>::new());
    assert_eq!(rig.drain("by.hidden"), Vec::<String>::new());
}

/// A dead letter that a delayed-message exchange held is still one: its history goes on.
#[test]
fn a_delayed_dead_letter_keeps_its_history() {
    let mut rig = Rig::new();
    rig.exchange("later", "x-delayed-message", &[("x-delayed-type", text("fanout"))]);
    rig.declare("q", true, &[("x-dead-letter-exchange", text("later"))]);
    rig.bind("q", "later", "");
    let delayed = Properties { headers: Some(table(&[("x-delay", Value::I32(50))])), ..persistent() };
    rig.publish("", "q", &delayed, &["m"]);
    let m = rig.get(1, "q", false).unwrap();
    rig.settle(1, Settle::Reject { requeue: false }, m.tag);
    rig.crash();
    rig.advance(100);
    let m = rig.get(1, "q", false).unwrap();
    rig.settle(1, Settle::Reject { requeue: false }, m.tag);
    let m = rig.get(1, "q", false).unwrap();
    let Some(Value::Array(deaths)) = m.headers.get("x-death") else { panic!("{m:?}") };
    let Some(Value::Table(death)) = deaths.first() else { panic!("{m:?}") };
    assert_eq!((deaths.len(), death.get("count")), (1, Some(&Value::I64(2))));
}
