//! `redelivered` is set on what was handed out before, and on everything an unclean stop may have handed out; it is not
//! set on what certainly was not. A stop in order forgets none of that.

use super::{Violation, ensure};
use crate::oracle::{Copy, Oracle};

pub(crate) fn on_delivery(
    oracle: &Oracle,
    copy: &Copy,
    queue: usize,
    deaths: u64,
    redelivered: bool,
) -> Result<(), Violation> {
    let expected = if copy.flag_unknown {
        None
    } else if copy.last == Some((queue, deaths)) {
        Some(true)
    } else if copy.unclean {
        (deaths == 0).then_some(true)
    } else {
        Some(false)
    };
    ensure(expected.is_none_or(|e| e == redelivered), "redelivered", || {
        format!(
            "message {} is delivered from {} with redelivered={redelivered}, last {:?}, after a crash: {}",
            copy.message, oracle.plan.queues[queue].name, copy.last, copy.unclean
        )
    })
}
