//! One file for each AMQP class: check, act, reply.

pub(crate) mod basic;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod queue;
pub(crate) mod tx;
