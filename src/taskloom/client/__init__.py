"""A client of the REST interface, with the methods of `TaskService`. Needs the extra `client`."""

from taskloom.client.blocking import SyncTaskloomClient
from taskloom.client.service import TaskloomClient

__all__ = ["SyncTaskloomClient", "TaskloomClient"]
