"""Whether new clients should be sent to this broker, in words that monitors can match."""

import attrs


@attrs.frozen
class Readiness:
    """Whether new clients should be sent here.

    Attributes:
        problems: why not, as short codes ("redis_control_down", "redis_unfit"); empty when ready.
        warnings: what does not stop it from serving but should be known ("control_blind", "redis_not_durable").
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
