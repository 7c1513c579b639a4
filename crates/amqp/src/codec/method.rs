//! Methods off the hot path, both directions. `amq-protocol` decodes and encodes them, except those with a table or a
//! field it drops (basic.qos prefetch-size), which are read argument by argument.

use super::fields::Fields;
use super::frame::{METHOD, cannot_decode, put};
use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, connection, exchange, gen_class, parse_class, queue, tx,
};
use bytes::BytesMut;
use hornpipe_types::command::{Bind, ChannelCommand, Consume, ExchangeDeclare, QueueDeclare};
use hornpipe_types::error::{AmqpError, ReplyCode};
use hornpipe_types::names::ShortStr;
use hornpipe_types::table::FieldTable;

/// A method on channel 0, as far as the machine cares.
#[derive(Debug, PartialEq)]
pub(crate) enum ConnectionMethod {
    StartOk {
        client_properties: FieldTable,
        mechanism: ShortStr,
        response: Vec<u8>,
    },
    TuneOk {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    Open {
        vhost: ShortStr,
    },
    Close,
    CloseOk,
    UpdateSecret,
    /// A method that has no business there: server's methods, secure-ok, other classes.
    Other,
}

/// A method on a channel.
#[derive(Debug)]
pub(crate) enum ChannelMethod {
    /// One for the core.
    Command(ChannelCommand),
    CloseOk,
    CancelOk,
}

fn unimplemented(id: (u16, u16)) -> AmqpError {
    AmqpError::new(ReplyCode::CommandInvalid, "unimplemented method").in_method(id.0, id.1)
}

fn parse(payload: &[u8]) -> Result<AMQPClass, AmqpError> {
    match parse_class(payload) {
        Ok(([], class)) => Ok(class),
        _ => Err(cannot_decode(payload.get(4..).unwrap_or_default())),
    }
}

/// Decodes a method received on channel 0. The error has the method's ids.
pub(crate) fn on_connection(id: (u16, u16), payload: &[u8]) -> Result<ConnectionMethod, AmqpError> {
    decode_connection(id, payload).map_err(|e| located(e, id))
}

fn decode_connection(id: (u16, u16), payload: &[u8]) -> Result<ConnectionMethod, AmqpError> {
    Ok(match id {
        (10, 11) => {
            let mut f = Fields::of_method(payload);
            let client_properties = f.table()?;
            let mechanism = f.short()?;
            let response = f.long()?;
            f.short()?;
            f.end()?;
            ConnectionMethod::StartOk { client_properties, mechanism, response }
        }
        (10, _) => match usual(id, payload) {
            Some(method) => method,
            None => rare(id, payload)?,
        },
        _ => ConnectionMethod::Other,
    })
}

/// What every connection says when it comes and goes, if it is well-formed: all else is for [`rare`], which takes longer.
fn usual(id: (u16, u16), payload: &[u8]) -> Option<ConnectionMethod> {
    let mut f = Fields::of_method(payload);
    let method = match id {
        (10, 31) => {
            ConnectionMethod::TuneOk { channel_max: f.u16().ok()?, frame_max: f.u32().ok()?, heartbeat: f.u16().ok()? }
        }
        (10, 40) => {
            let vhost = f.short().ok()?;
            f.text().and_then(|_| f.u8()).ok()?;
            ConnectionMethod::Open { vhost }
        }
        (10, 50) if is_close(payload) => return Some(ConnectionMethod::Close),
        _ => return None,
    };
    f.end().ok().map(|()| method)
}

/// Any other method of the class, and those that are malformed.
fn rare(id: (u16, u16), payload: &[u8]) -> Result<ConnectionMethod, AmqpError> {
    use connection::AMQPMethod as M;
    Ok(match parse(payload) {
        Ok(AMQPClass::Connection(M::TuneOk(m))) => {
            ConnectionMethod::TuneOk { channel_max: m.channel_max, frame_max: m.frame_max, heartbeat: m.heartbeat }
        }
        Ok(AMQPClass::Connection(M::Open(m))) => {
            ConnectionMethod::Open { vhost: ShortStr::new(m.virtual_host.as_str()) }
        }
        Ok(AMQPClass::Connection(M::Close(_))) => ConnectionMethod::Close,
        Ok(AMQPClass::Connection(M::CloseOk(_))) => ConnectionMethod::CloseOk,
        Ok(AMQPClass::Connection(M::UpdateSecret(_))) => ConnectionMethod::UpdateSecret,
        Ok(_) => ConnectionMethod::Other,
        Err(_) if !matches!(id.1, 10 | 11 | 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51 | 60 | 61 | 70 | 71) => {
            return Err(unimplemented(id));
        }
        Err(e) => return Err(e),
    })
}

/// Whether the arguments are those of a close: code, text and the method it is about.
fn is_close(payload: &[u8]) -> bool {
    let mut f = Fields::of_method(payload);
    f.u16().is_ok() && f.text().is_ok() && f.u32().is_ok() && f.end().is_ok()
}

/// Whether the arguments are those of a channel.open: a text.
fn is_open(payload: &[u8]) -> bool {
    let mut f = Fields::of_method(payload);
    f.text().is_ok() && f.end().is_ok()
}

/// Decodes a method received on a channel (basic.publish and settlements excepted, see [`super::hot`]). The error has the
/// method's ids and is always one for the whole connection.
pub(crate) fn on_channel(id: (u16, u16), payload: &[u8]) -> Result<ChannelMethod, AmqpError> {
    let method = match id {
        (40, 10) => exchange_declare(payload),
        (40, 30) => bind(payload, true).map(ChannelCommand::ExchangeBind),
        (40, 40) => bind(payload, true).map(ChannelCommand::ExchangeUnbind),
        (50, 10) => queue_declare(payload),
        (50, 20) => bind(payload, true).map(ChannelCommand::QueueBind),
        (50, 50) => bind(payload, false).map(ChannelCommand::QueueUnbind),
        (60, 10) => qos(payload),
        (60, 20) => consume(payload),
        (20, 10) if is_open(payload) => Ok(ChannelCommand::Open),
        (20, 40) if is_close(payload) => Ok(ChannelCommand::Close),
        _ => return decode_plain(id, payload).map_err(|e| located(e, id)),
    };
    method.map(ChannelMethod::Command).map_err(|e| located(e, id))
}

fn decode_plain(id: (u16, u16), payload: &[u8]) -> Result<ChannelMethod, AmqpError> {
    use ChannelCommand as C;
    let s = |text: &amq_protocol::types::ShortString| ShortStr::new(text.as_str());
    // what a client may send; the rest is answered without a look at the arguments
    let known = matches!(
        id,
        (20, 10 | 20 | 21 | 40 | 41)
            | (30, 10)
            | (40, 20)
            | (50, 30 | 40)
            | (60, 30 | 31 | 70 | 80 | 90 | 100 | 110 | 120)
            | (85, 10)
            | (90, 10 | 20 | 30)
    );
    if !known {
        return Err(unimplemented(id));
    }
    let command = match parse(payload)? {
        AMQPClass::Channel(channel::AMQPMethod::Open(_)) => C::Open,
        AMQPClass::Channel(channel::AMQPMethod::Close(_)) => C::Close,
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => return Ok(ChannelMethod::CloseOk),
        AMQPClass::Channel(channel::AMQPMethod::Flow(m)) if m.active => C::Flow,
        AMQPClass::Channel(channel::AMQPMethod::Flow(_)) => return Err(AmqpError::not_implemented("active=false")),
        AMQPClass::Access(_) => C::AccessRequest,
        AMQPClass::Exchange(exchange::AMQPMethod::Delete(m)) => {
            C::ExchangeDelete { exchange: s(&m.exchange), if_unused: m.if_unused, nowait: m.nowait }
        }
        AMQPClass::Queue(queue::AMQPMethod::Purge(m)) => C::QueuePurge { queue: s(&m.queue), nowait: m.nowait },
        AMQPClass::Queue(queue::AMQPMethod::Delete(m)) => {
            C::QueueDelete { queue: s(&m.queue), if_unused: m.if_unused, if_empty: m.if_empty, nowait: m.nowait }
        }
        AMQPClass::Basic(basic::AMQPMethod::Cancel(m)) => {
            C::Cancel { consumer_tag: s(&m.consumer_tag), nowait: m.nowait }
        }
        AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)) => return Ok(ChannelMethod::CancelOk),
        AMQPClass::Basic(basic::AMQPMethod::Get(m)) => C::Get { queue: s(&m.queue), no_ack: m.no_ack },
        AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(m)) => C::Recover { requeue: m.requeue, nowait: true },
        AMQPClass::Basic(basic::AMQPMethod::Recover(m)) => C::Recover { requeue: m.requeue, nowait: false },
        AMQPClass::Confirm(confirm::AMQPMethod::Select(m)) => C::ConfirmSelect { nowait: m.nowait },
        AMQPClass::Tx(tx::AMQPMethod::Select(_)) => C::TxSelect,
        AMQPClass::Tx(tx::AMQPMethod::Commit(_)) => C::TxCommit,
        AMQPClass::Tx(tx::AMQPMethod::Rollback(_)) => C::TxRollback,
        _ => return Err(unimplemented(id)),
    };
    Ok(ChannelMethod::Command(command))
}

fn bit(bits: u8, n: u8) -> bool {
    bits & (1 << n) != 0
}

fn exchange_declare(payload: &[u8]) -> Result<ChannelCommand, AmqpError> {
    let mut f = Fields::of_method(payload);
    f.u16()?;
    let (exchange, kind, bits, arguments) = (f.short()?, f.short()?, f.u8()?, f.table()?);
    f.end()?;
    Ok(ChannelCommand::ExchangeDeclare(Box::new(ExchangeDeclare {
        exchange,
        kind,
        passive: bit(bits, 0),
        durable: bit(bits, 1),
        auto_delete: bit(bits, 2),
        internal: bit(bits, 3),
        nowait: bit(bits, 4),
        arguments,
    })))
}

fn queue_declare(payload: &[u8]) -> Result<ChannelCommand, AmqpError> {
    let mut f = Fields::of_method(payload);
    f.u16()?;
    let (queue, bits, arguments) = (f.short()?, f.u8()?, f.table()?);
    f.end()?;
    Ok(ChannelCommand::QueueDeclare(Box::new(QueueDeclare {
        queue,
        passive: bit(bits, 0),
        durable: bit(bits, 1),
        exclusive: bit(bits, 2),
        auto_delete: bit(bits, 3),
        nowait: bit(bits, 4),
        arguments,
    })))
}

/// exchange.bind and unbind, queue.bind and unbind: the destination comes first in all of them.
fn bind(payload: &[u8], has_nowait: bool) -> Result<Box<Bind>, AmqpError> {
    let mut f = Fields::of_method(payload);
    f.u16()?;
    let (destination, source, routing_key) = (f.short()?, f.short()?, f.short()?);
    let nowait = has_nowait && bit(f.u8()?, 0);
    let arguments = f.table()?;
    f.end()?;
    Ok(Box::new(Bind { destination, source, routing_key, nowait, arguments }))
}

fn qos(payload: &[u8]) -> Result<ChannelCommand, AmqpError> {
    let mut f = Fields::of_method(payload);
    let (prefetch_size, prefetch_count, bits) = (f.u32()?, f.u16()?, f.u8()?);
    f.end()?;
    Ok(ChannelCommand::Qos { prefetch_size, prefetch_count, global: bit(bits, 0) })
}

fn consume(payload: &[u8]) -> Result<ChannelCommand, AmqpError> {
    let mut f = Fields::of_method(payload);
    f.u16()?;
    let (queue, consumer_tag, bits, arguments) = (f.short()?, f.short()?, f.u8()?, f.table()?);
    f.end()?;
    // bit 0 is no-local, which RabbitMQ ignores
    Ok(ChannelCommand::Consume(Box::new(Consume {
        queue,
        consumer_tag,
        no_ack: bit(bits, 1),
        exclusive: bit(bits, 2),
        nowait: bit(bits, 3),
        arguments,
    })))
}

/// Payloads of the answers that every connection gets when it comes and goes.
pub(crate) const CONNECTION_OPEN_OK: [u8; 5] = [0, 10, 0, 41, 0];
pub(crate) const CONNECTION_CLOSE_OK: [u8; 4] = [0, 10, 0, 51];
pub(crate) const CHANNEL_OPEN_OK: [u8; 8] = [0, 20, 0, 11, 0, 0, 0, 0];
pub(crate) const CHANNEL_CLOSE_OK: [u8; 4] = [0, 20, 0, 41];

/// Appends a method frame; `scratch` is a buffer to be reused.
pub(crate) fn put_method(out: &mut BytesMut, scratch: &mut Vec<u8>, channel: u16, method: &AMQPClass) {
    scratch.clear();
    let context = WriteContext::from(std::mem::take(scratch));
    // writing to a vector can't fail, and no method of the server's is larger than an integer can say
    if let Ok(written) = gen_class(method)(context) {
        *scratch = written.write;
        put(out, METHOD, channel, scratch);
    }
}

/// Appends connection.start, by hand: the server properties leave in their own order.
pub(crate) fn put_start(out: &mut BytesMut, properties: &FieldTable, mechanisms: &str) {
    let mut payload = Vec::with_capacity(512);
    payload.extend_from_slice(&[0, 10, 0, 10, 0, 9]);
    properties.encode(&mut payload);
    for text in [mechanisms, "en_US"] {
        payload.extend_from_slice(&(text.len() as u32).to_be_bytes());
        payload.extend_from_slice(text.as_bytes());
    }
    put(out, METHOD, 0, &payload);
}
/// Names the method an error is about. RabbitMQ finds text that is not UTF-8 before it knows the method.
fn located(error: AmqpError, id: (u16, u16)) -> AmqpError {
    if error == super::fields::not_utf8() { error } else { error.in_method(id.0, id.1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::protocol::AMQPClass as Class;

    fn payload(method: &AMQPClass) -> Vec<u8> {
        gen_class(method)(WriteContext::from(Vec::new())).unwrap().write
    }

    /// A payload, each beginning of it, and it with an octet more, another one, or none that is text.
    fn variants(whole: &[u8]) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = (4..=whole.len()).map(|end| whole[..end].to_vec()).collect();
        for at in 4..whole.len() {
            for octet in [0, 1, 0xC3, 0xFF] {
                let mut other = whole.to_vec();
                other[at] = octet;
                all.push(other);
            }
        }
        all.push([whole, &[0]].concat());
        all
    }

    #[test]
    fn usual_methods_are_what_the_library_reads() {
        let close = connection::Close { reply_code: 200, reply_text: "bye é".into(), class_id: 60, method_id: 40 };
        let open = connection::Open { virtual_host: "a/é".into() };
        let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
        for (id, method) in [
            ((10, 50), connection::AMQPMethod::Close(close)),
            ((10, 40), connection::AMQPMethod::Open(open)),
            ((10, 31), connection::AMQPMethod::TuneOk(tune_ok)),
        ] {
            let whole = payload(&Class::Connection(method));
            assert!(usual(id, &whole).is_some());
            for octets in variants(&whole) {
                let library = rare(id, &octets);
                assert!(usual(id, &octets).is_none_or(|method| library == Ok(method)), "{octets:?} {library:?}");
            }
        }
        let close = channel::Close { reply_code: 200, reply_text: "bye é".into(), class_id: 60, method_id: 40 };
        for (id, method) in
            [((20, 10), channel::AMQPMethod::Open(channel::Open {})), ((20, 40), channel::AMQPMethod::Close(close))]
        {
            for octets in variants(&payload(&Class::Channel(method))) {
                let library = decode_plain(id, &octets).map_err(|e| located(e, id));
                assert_eq!(format!("{:?}", on_channel(id, &octets)), format!("{library:?}"), "{octets:?}");
            }
        }
    }

    #[test]
    fn usual_answers_are_what_the_library_writes() {
        let open_ok = connection::AMQPMethod::OpenOk(connection::OpenOk {});
        assert_eq!(payload(&Class::Connection(open_ok)), CONNECTION_OPEN_OK);
        let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        assert_eq!(payload(&Class::Connection(close_ok)), CONNECTION_CLOSE_OK);
        let open_ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
        assert_eq!(payload(&Class::Channel(open_ok)), CHANNEL_OPEN_OK);
        let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
        assert_eq!(payload(&Class::Channel(close_ok)), CHANNEL_CLOSE_OK);
    }
}
