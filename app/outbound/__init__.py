"""Calls to addresses that others gave us, subscribers and callers: the only way there.

    client       makes a call and tells what came of it, a POST's or a GET's
    connections  where POSTs go: connections that were kept, and new ones to addresses that were judged
    exchange     one of them: a request, and as much of its answer as is kept
    download     the answer to a GET: a body of any size, piece by piece
    guard        resolves names for both, and lets through what `targets` admits
    headers      which headers of others go out with a call, and what those of an answer say
    words        what went wrong, as one line for people

An address is judged after its name was resolved, and what was judged is what is connected to.
"""
