"""How fast the product is, measured against what PostgreSQL itself commits on the same machine in the same run.

The limit is `pgbench` running the statements of `reference/`, which are part of the repository: product SQL that gets
slower cannot flatter a ratio. The service is the real command in a process of its own, over real HTTP, and so are the load
generator and the receivers. What was acknowledged is looked up in the database after every round, exactly once each.

    plan          what is measured, for how long, in which order
    stage         the database, the team, and jobs that wait for their webhooks
    limit         pgbench, or the driver that stands in for it, on `reference/`
    load          the load generator: a process that plays requests that were written before
    servers       processes that answer: the service, the one written the usual way, a bare route
    throughput    rounds of webhooks and submissions, each between two measurements of the limit
    verify        what was acknowledged, against what is there
    report        the document and the table
"""
