"""A double of the ClearML API server (API 2.34) and of its file server.

It refuses what the real server refuses, and checks every request body against the schemas that come inside the
installed clients, so that a test which passes here does not pass by luck. What a client did wrong is kept as a
violation. Start it as `python -m doubles.clearml_server --files-dir FOLDER`; it prints its addresses as one line of
JSON and ends when its standard input does.

    store.py        what the server remembers, and how it refuses
    schemas.py      the request schemas, read from the installed clients
    tokens.py       logging in
    faults.py       failures on demand (on ../fault_set.py)
    search.py       `get_all`: filters, order, pages
    accounts.py, projects.py, tasks.py, task_status.py, task_parts.py, models.py, queues.py, events.py    the actions
    api.py          one request: fault, authorization, schema, action
    web.py          HTTP, and the paths that steer the double
    file_server.py  uploads and downloads

Paths that steer it (API port): GET /_state, /_violations, /_fault; POST /_fault, /_clear_faults, /_expire_tokens,
/_reset.
"""
