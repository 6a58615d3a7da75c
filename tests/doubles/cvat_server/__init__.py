"""A double of a CVAT server (API 2.42 to 2.80), as far as data are read and exported from one.

It refuses what the real server refuses: unknown paths and verbs, query parameters that the endpoint does not have
(read from the installed cvat-sdk), wrong credentials, missing CSRF tokens, exports fetched before they are ready. What
a client did wrong is kept as a violation. Start it as `python -m doubles.cvat_server`; it prints its address as one
line of JSON and ends when its standard input does.

    world.py      projects, tasks, jobs, frames and shapes, as a test describes them
    pictures.py   the frames' bytes
    exports.py    archives of "CVAT for images 1.1" and "COCO 1.0", sound and hostile
    accounts.py   users, passwords, tokens, sessions
    endpoints.py  which paths, verbs and query parameters there are
    faults.py     failures on demand (on ../fault_set.py)
    answers.py    the JSON of tasks, jobs, projects, labels, frames and requests
    api.py        one request: fault, credentials, organisation, action
    transfer.py   how an archive is sent: whole, cut, stalled, in drops
    web.py        HTTP, and the paths that steer the double

Paths that steer it: POST /_world (what it holds), /_fault, /_clear_faults; GET /_state.
"""
