//! hornpipe-amqp
