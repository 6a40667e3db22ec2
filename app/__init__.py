"""Framehook stands between a company's teams and Apiframe. This page is the map of the house, in the order data flows.

A team submits a generation (`jobs/`), it is sent upstream (`jobs/dispatch` through `apiframe/`), the upstream answers by
webhook (`webhooks/`) or is asked (`jobs/reconcile`), and every word it says goes through one door (`jobs/observe`).

    cli                the console script `framehook`
    bench              how fast it is, in terms of what PostgreSQL itself commits on the same machine
    demo               the whole product in one terminal
    faults             `kill -9` of everything under load, and the books compared afterwards
    listen             events of a running service, posted to a developer's laptop
    serving            processes: what must hold before they start, and none left behind after
    main reference     the whole HTTP surface on one screen, and what OpenAPI says of it
    front              hot routes straight to their handlers, everything else through the framework
    workers            the table of background loops
    sandbox            what stands in the upstream's place for test keys
    simulator          a bundled Apiframe, which imports nothing from `apiframe`
    relay              the upstream's operations that make no job, passed through, and what is whose there
    dashboard          the pages at /ops, for whoever runs the service
    ops                health, status, metrics, traces: reads everything, decides nothing
    webhooks           IN: verify, keep a Receipt, make an Observation
    jobs               submit, dispatch, states (pure), observe (the one door), reconcile, expire, reading, actions
    archive            result files, kept before the upstream purges them
    deliveries         OUT: publish, subscriptions, deliver
    events             the log that subscribers read: appended in order, read without gaps, by pages or as a stream
    teams              teams, what they may do, API keys, the audit log
    http auth paging   what every route needs, who calls, and how far a list has been read
    exports            lists of any length, as files
    context            what is handed down instead of globals
    apiframe           the only place that spells the upstream's wire format
    outbound           the only way to addresses that others gave us
    objects            where files are kept: a folder, or a bucket
    targets            which of those may be called (pure)
    loop batch notify migrate partitions models db statements
    joining            one write where an answer makes two
    measures           what this process counts and times, told by `ops` to all the others
    lanes              deliveries in hand, and whose turn it is (pure)
    config clock errors backoff bucket modest logs embedded version

Vocabulary. *Upstream*: Apiframe. *Operation*: one kind of upstream call. *Job*: one generation, from our acceptance to a
final status. *Dispatch*: sending a job upstream. *Observation*: what the upstream says of a job, by whatever mouth.
*Webhook*: a message from Apiframe, inbound only; a *Receipt* is one of them, as kept. *Reconcile*: asking instead of being
told. *Event*: a numbered, immutable fact that subscribers may read. *Subscription*: a subscriber's standing request.
*Delivery*: the duty to tell it of one event; an *Attempt* is one HTTP try. *Callback*: the URL a caller put on its own
submission. *File*: a result file that is
kept. *Lease*: a claim with an end. *Nudge*: a NOTIFY.
"""
