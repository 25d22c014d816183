"""Publishing an event over HTTP, for those who cannot reach Redis."""

from broker.admin.action import Action
from broker.admin.body import bad_request
from broker.http import Answer, json_answer
from broker.publisher import encode_event
from broker.store.history import HistorySettings, publish_event
from protocol.channels import namespace_of
from protocol.codes import ErrorCode
from protocol.errors import ProtocolError

__all__ = ["publish"]


async def publish(action: Action) -> Answer:
    """Publish {"channel", "type", "data"?}; the answer says how many brokers heard it."""
    body, services = action.body, action.services
    channel, event_type, data = body.text("channel"), body.text("type"), body.take("data")
    body.done()
    if channel is None or event_type is None:
        raise bad_request('the body must be {"channel": "...", "type": "...", "data": ...}')
    config = services.config
    try:
        payload = encode_event(channel, event_type, data, services.clock(), config.limits.max_publication_bytes)
        namespace = namespace_of(channel)
    except (ValueError, TypeError, ProtocolError) as error:
        raise bad_request(error.message if isinstance(error, ProtocolError) else str(error)) from None
    if namespace not in config.events.namespaces:
        raise bad_request(
            f"no client can subscribe to it: {namespace} is not among events.namespaces", ErrorCode.FORBIDDEN_CHANNEL
        )
    history = HistorySettings(config.events.history)
    published = await action.store(
        publish_event(services.layout, channel, payload, history), "it may have been published all the same"
    )
    fields: dict[str, object] = {"channel": channel, "type": event_type, "receivers": published.receivers}
    if published.offset is not None:
        fields["offset"] = published.offset
    return json_answer(202, fields)
