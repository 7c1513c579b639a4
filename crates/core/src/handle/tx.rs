//! Class tx, and confirm.select [spec §1.9; RabbitMQ "Broker Semantics: tx", "Publisher Confirms"].

use crate::channel::confirms::Confirms;
use crate::committing::Committing;
use crate::connection::Tx;
use crate::shard::Shard;
use crate::work::Work;
use hornpipe_types::command::PublishRun;
use hornpipe_types::effect::ChannelEffect;
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::ids::ConnectionId;
use hornpipe_types::time::Now;

pub(crate) fn too_large((operations, bytes): (u64, u64)) -> AmqpError {
    AmqpError::new(
        ReplyCode::ResourceError,
        format!("transaction exceeds the limit of {operations} operations or {bytes} octets"),
    )
}

/// Copies into queues that a transaction may make for each operation it may have: where the broker stops all of a commit is done at
/// once, and all of it waits for the disk.
const COPIES_PER_OPERATION: u64 = 20;

impl Shard {
    pub(crate) fn on_confirm_select(&mut self, from: ConnectionId, number: u16, nowait: bool) -> Result<(), AmqpError> {
        let incarnation = self.next_incarnation;
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        if channel.tx.is_some() {
            return Err(AmqpError::precondition("cannot switch from tx to confirm mode"));
        }
        if channel.confirms.is_none() {
            channel.confirms = Some(Confirms::new(incarnation));
            self.next_incarnation = incarnation.wrapping_add(1);
        }
        if !nowait {
            self.reply(from, number, ChannelEffect::ConfirmSelectOk, None);
        }
        Ok(())
    }

    pub(crate) fn on_tx_select(&mut self, from: ConnectionId, number: u16) -> Result<(), AmqpError> {
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        if channel.confirms.is_some() {
            return Err(AmqpError::precondition("cannot switch from confirm to tx mode"));
        }
        channel.tx.get_or_insert_with(Tx::default);
        self.reply(from, number, ChannelEffect::TxSelectOk, None);
        Ok(())
    }

    /// Keeps a publish until the transaction ends.
    pub(crate) fn hold_publish(
        &mut self,
        from: ConnectionId,
        number: u16,
        run: PublishRun,
        copies: u64,
    ) -> Result<(), AmqpError> {
        let limits = (self.limits.tx_operations, self.limits.tx_bytes);
        let Some(tx) = self.channel_mut(from, number).and_then(|c| c.tx.as_mut()) else { return Ok(()) };
        tx.operations += u64::from(run.count);
        tx.bytes += run.batch.body_bytes(run.from, run.count, 1);
        tx.copies += copies;
        tx.publishes.push(run);
        let copies = tx.copies;
        if tx.operations > limits.0 || tx.bytes > limits.1 {
            return Err(too_large(limits));
        }
        self.check_copies(copies)
    }

    fn check_copies(&self, copies: u64) -> Result<(), AmqpError> {
        let most = self.limits.tx_operations.saturating_mul(COPIES_PER_OPERATION);
        if copies <= most {
            return Ok(());
        }
        let text = format!("transaction exceeds the limit of {most} messages times queues");
        Err(AmqpError::new(ReplyCode::ResourceError, text))
    }

    /// Publishes in order, then settlements; commit-ok waits for the disk. What fits the allowance of a command is all under one commit.
    pub(crate) fn on_tx_commit(&mut self, now: Now, from: ConnectionId, number: u16) -> Result<(), AmqpError> {
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        let Some(tx) = &mut channel.tx else {
            return Err(AmqpError::precondition("channel is not transactional"));
        };
        let publishes = std::mem::take(&mut tx.publishes);
        // what was allowed when it was published may not be so any more: all is looked at before any of it is done, and the
        // settlements stay where they are, so that a channel that fails gives back what they hold
        let mut copies = 0;
        for run in &publishes {
            copies += self.check_publish(from, number, run)?;
        }
        // bindings may have come since
        self.check_copies(copies)?;
        // what this turn did before is not the commit's: what fits an allowance is one turn and one group
        self.allow();
        self.begin_work(now, Work::Commit(Box::new(Committing::new((from, number), publishes))));
        // serving the queues that got something has an allowance of its own
        self.allow();
        Ok(())
    }

    /// Drops the publishes; settled deliveries are outstanding again, without redelivery.
    pub(crate) fn on_tx_rollback(&mut self, from: ConnectionId, number: u16) -> Result<(), AmqpError> {
        let Some(channel) = self.channel_mut(from, number) else { return Ok(()) };
        let Some(tx) = channel.tx.replace(Tx::default()) else {
            return Err(AmqpError::precondition("channel is not transactional"));
        };
        let unacked = &mut channel.unacked;
        let freed: u64 = tx.settles.into_iter().map(|(_, taken)| unacked.restore(taken)).sum();
        self.resident -= freed.min(self.resident);
        self.reply(from, number, ChannelEffect::TxRollbackOk, None);
        Ok(())
    }
}
