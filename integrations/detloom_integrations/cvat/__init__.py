"""Data from CVAT: what is there, exported and brought here.

    access.py       who asks: credentials from the environment
    channel.py      what sends requests: a contract, and the standard library
    sdk.py          the same through the cvat-sdk
    server.py       questions to a server, with patience and an end
    units.py        tasks and jobs that are to be fetched, and what says that they changed
    exporting.py    archives that the server makes: the present way, and that of old servers
    frames.py       annotations alone, and pictures one by one
    fetching.py     one task or job, by the first way that works
    assembling.py   several tasks as one data set
    source.py       the source

Nothing here imports the SDK before it is needed, and no module imports it at its top.
"""
