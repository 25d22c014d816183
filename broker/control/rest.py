"""The REST companions of the control socket, without HTTP: a status, and the fields of the JSON answer."""

from collections.abc import Mapping

import orjson

from broker.control.services import ControlServices
from broker.control.snapshot import fields_of
from broker.keys import Admission
from broker.observe import Repeated
from broker.store.drive import run
from broker.store.snapshot import read_workflow
from protocol.codes import ErrorCode

Answer = tuple[int, Mapping[str, object]]


class ControlRest:
    """Answers requests whose caller is known already and belongs to the organization that it asks for.

    States come from this broker's own copy while that is current; otherwise from the store, and its errors
    (`redis.exceptions.RedisError`) are the caller's to handle.
    """

    def __init__(self, services: ControlServices) -> None:
        self._services = services
        self._log = Repeated(services.log)

    def auth_verify(self, admission: Admission) -> Answer:
        """Say what a key is: organization_id, workflow_id, key_id, key_version.

        A client that still signs with the previous secret is told the new one: it has proved that it held the key's
        secret a minute ago. Nobody else is.
        """
        record = admission.record
        fields: dict[str, object] = {
            "organization_id": record.organization_id,
            "workflow_id": record.workflow_id,
            "key_id": record.key_id,
            "key_version": record.version,
        }
        if admission.signed_with_previous:
            fields["secret_key"] = record.secret_key
            self._log.info(record.key_id, "told a client its key's new secret", key_id=record.key_id)
        return 200, fields

    async def workflow_status(self, organization_id: str, workflow_id: str) -> Answer:
        """Return one workflow; 404 if it never changed."""
        room = self._services.rooms.current(organization_id)
        if room is not None:
            workflow = room.replica.workflow(workflow_id)
        else:
            operation = read_workflow(self._services.layout, organization_id, workflow_id)
            stored = await run(self._services.call, operation)
            workflow = None if stored is None else stored.workflow
        if workflow is None:
            return 404, {"error": {"code": ErrorCode.NOT_FOUND, "message": "this workflow never changed"}}
        return 200, fields_of(workflow)

    async def org_status(self, organization_id: str) -> Answer:
        """Return every workflow of an organization; they are JSON already, as `orjson` takes it."""
        workflows = await self._services.listings.of(organization_id)
        return 200, {"organization_id": organization_id, "workflows": orjson.Fragment(workflows)}
