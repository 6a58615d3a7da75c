"""Which paths, verbs and query parameters a server has: read from the SDK that is made from its schema."""

from __future__ import annotations

import functools
import re

ORGANIZATION = {"org", "org_id"}


@functools.cache
def known() -> list[tuple[str, re.Pattern[str], frozenset[str]]]:
    """(verb, path, query parameters) of every endpoint."""
    from cvat_sdk.api_client import ApiClient, Configuration

    client = ApiClient(Configuration(host="http://127.0.0.1:1"))
    found = []
    for name in ("tasks", "projects", "jobs", "requests", "labels", "server", "auth", "organizations", "users"):
        api = getattr(client, f"{name}_api")
        for endpoint in (value for key, value in vars(api).items() if key.endswith("_endpoint")):
            path = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(endpoint.settings["endpoint_path"]))
            query = {endpoint.attribute_map[key] for key, place in endpoint.location_map.items() if place == "query"}
            found.append((endpoint.settings["http_method"], re.compile(path), frozenset(query)))
    # Made by hand in the server, so that no schema names them: where results are fetched, and what it used to be.
    for path in (r"/api/(tasks|projects|jobs)/\d+/dataset/download",):
        found += [(verb, re.compile(path), frozenset({"rq_id"})) for verb in ("GET", "HEAD")]
    old = frozenset({"format", "action", "filename", "location", "cloud_storage_id", "use_default_location"})
    found.append(("GET", re.compile(r"/api/(tasks|projects|jobs)/\d+/(dataset|annotations)"), old))
    return found


def mistake(verb: str, path: str, query: set[str]) -> str:
    """What is wrong with a request, or nothing."""
    here = [(method, names) for method, pattern, names in known() if pattern.fullmatch(path)]
    if not here:
        return f"no endpoint {path}"
    names = [names for method, names in here if method == verb]
    if not names:
        return f"{path} has no {verb}"
    strange = query - ORGANIZATION - frozenset[str]().union(*names)
    return f"{verb} {path} takes no {sorted(strange)}" if strange else ""
