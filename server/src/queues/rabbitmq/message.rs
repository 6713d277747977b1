//! Messages as AMQP has them. What other programs send may look like anything.

use crate::{
    broker::rabbitmq::PERSISTENT,
    queues::{
        limits::{BATCH_BYTES_MAX, BODY_BYTES_MAX},
        message::{Headers, Message},
    },
};
use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// When it was sent, in milliseconds since 1970: AMQP itself has only seconds.
const SENT_MILLIS: &str = "x-piecework-sent-millis";

/// How often a quorum queue has delivered it in vain.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Says of a message that is shown how long its body is, if that is too much to be shown.
const BODY_BYTES: &str = "x-piecework-body-bytes";

/// A message for AMQP, without its body.
pub(super) fn properties(message: &Message) -> BasicProperties {
    let Message { id, content_type, headers, sent_millis, .. } = message;
    let mut table = FieldTable::default();
    for (key, value) in headers {
        table.insert(key.as_str().into(), AMQPValue::LongString(LongString::from(value.as_str())));
    }
    table.insert(SENT_MILLIS.into(), AMQPValue::LongLongInt(*sent_millis));
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.as_str().into())
        .with_timestamp(sent_millis.unsigned_abs() / 1000)
        .with_headers(table);
    if content_type.is_empty() {
        properties
    } else {
        properties.with_content_type(content_type.as_str().into())
    }
}

/// What was delivered.
pub(super) fn message(delivery: Delivery) -> Message {
    let Delivery { properties, redelivered, data, .. } = delivery;
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string).unwrap_or_default();
    let seconds = properties.timestamp().unwrap_or_default();
    let mut sent_millis = i64::try_from(seconds).unwrap_or_default().saturating_mul(1000);
    let mut redeliveries = u32::from(redelivered);
    let mut headers = Headers::new();
    for (key, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        match (key.as_str(), integer(value)) {
            (SENT_MILLIS, Some(millis)) => sent_millis = millis,
            (DELIVERY_COUNT, Some(count)) => {
                redeliveries = redeliveries.max(u32::try_from(count).unwrap_or_default());
            }
            (key, _) => {
                if let Some(value) = plain(value) {
                    headers.insert(key.to_owned(), value);
                }
            }
        }
    }
    Message {
        id: text(properties.message_id()),
        body: Bytes::from(data),
        content_type: text(properties.content_type()),
        headers,
        sent_millis,
        redeliveries,
    }
}

/// What can be shown of a message, which is all of it unless it is larger than ours ever are.
pub(super) fn shown(mut message: Message) -> Message {
    if message.size() > BATCH_BYTES_MAX {
        message.headers.insert(BODY_BYTES.to_owned(), message.body.len().to_string());
        message.body.truncate(BODY_BYTES_MAX);
    }
    message
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(n) => Some(n.into()),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => Some(n.into()),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => Some(n.into()),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    }
}

/// A header as text; none if it is a list, a table, or nothing.
fn plain(value: &AMQPValue) -> Option<String> {
    if let Some(integer) = integer(value) {
        return Some(integer.to_string());
    }
    match value {
        AMQPValue::Boolean(is) => Some(is.to_string()),
        AMQPValue::Float(number) => Some(number.to_string()),
        AMQPValue::Double(number) => Some(number.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ByteArray(bytes) => Some(String::from_utf8_lossy(bytes.as_slice()).into_owned()),
        _ => None,
    }
}
