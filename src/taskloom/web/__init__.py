"""The web application: REST, live updates, dashboard. Needs the extra `web`."""

from taskloom.web.auth import Authenticate, Caller, Role

__all__ = ["Authenticate", "Caller", "Role"]
