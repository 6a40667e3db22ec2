"""The event log: numbered, immutable facts, written in the transaction that makes them true.

    a transaction changes jobs, and as its last statement calls
      queries.append    takes the log's lock, then numbers: so numbers are in the order of commits
    readers ask
      feed.read         for what comes after a number; whoever has read up to it missed nothing before it
      feed.poll         the same for a caller, who may wait for it
    clients follow
      tail              reads on once for all of them and keeps the newest
      stream            one client: a cursor into the tail, or into the log where it is older than the tail

A number that a reader has seen therefore says: everything below is there already, whatever commits late.
"""
