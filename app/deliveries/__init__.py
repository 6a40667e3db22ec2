"""OUT: the duty to tell every event to whoever subscribed, until it was told or cannot be.

    publish    in the transaction that makes an event true: append it, make its deliveries
    deliver    claim what is due, sign and POST with no transaction open, record the attempt
    verdict    what an attempt means: delivered, again at a later time, or the end of the journey

An attempt that fails is made again, +/- 20 %, after

    5 s   1 min   5 min   30 min   2 h   5 h   10 h   then every 12 h, 15 attempts over more than 3 days

First attempts have a lane of their own, and every target a few places in each lane (`app.lanes`): neither late retries nor a
subscriber that hangs keep the others waiting. While what is claimed for a target is answered within a second, more of it is
claimed ahead, so that claims and records are made in large batches.
"""
