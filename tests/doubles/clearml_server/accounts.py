"""auth, users, server, organization, debug."""

from __future__ import annotations

from .store import COMPANY, USER, Action, Body, Record, Store
from .tokens import API_VERSION, SERVER_VERSION


def ping(store: Store, body: Body) -> Record:
    return {"msg": "ClearML server"}


def current_user(store: Store, body: Body) -> Record:
    company = {"id": COMPANY, "name": "acceptance"}
    user = {"id": USER, "name": "tests", "company": company, "role": "user"}
    return {"user": user, "getting_started": {}, "settings": {}}


def users(store: Store, body: Body) -> Record:
    return {"users": [{"id": USER, "name": "tests"}]}


def server_info(store: Store, body: Body) -> Record:
    return {"version": SERVER_VERSION, "build": "", "uid": "acceptance", "api_version": API_VERSION}


def tags(store: Store, body: Body) -> Record:
    tagged = [*store.all("task"), *store.all("model")]
    return {"tags": sorted({tag for record in tagged for tag in record.get("tags", [])}), "system_tags": []}


ACTIONS: dict[str, Action] = {
    "debug.ping": ping,
    "users.get_current_user": current_user,
    "users.get_all": users,
    "users.get_all_ex": users,
    "server.info": server_info,
    "organization.get_tags": tags,
}
