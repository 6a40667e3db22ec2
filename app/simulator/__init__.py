"""A bundled Apiframe: the vendor's v2 API on a port of its own, with virtual jobs, real pictures and faults on demand.

It serves development, the demo and the tests. It is written from the facts about the vendor alone and imports nothing of
the service's own reading of them (`app.apiframe`), so that a misreading cannot agree with itself.

    server       run it: `run` blocks, `RunningSimulator` is one in a thread
    api          the vendor's routes             control      the `/sim` routes, by which tests and demos steer it
    material     the routes of what callers bring along: assets loras
    replies      the shapes of answers and refusals, and how a connection is cut
    world        accepts submissions, keeps jobs, idempotency records and time
    state        what the vendor knows at a moment
    lifecycle    moves a job: QUEUED, PROCESSING with progress, then COMPLETED, FAILED or CANCELLED
    webhooks     signs and sends, or loses, doubles, delays, reorders
    books        what was seen, accepted, sent and acknowledged, for tests to check against
    accounts     keys, credits, the request rate
    bodies       which submissions are well-formed        document     the OpenAPI document that says so
    parents      which action fits which earlier job      catalog      the models and their parameters
    outputs      what a job makes                         pictures sounds uploads   the files themselves
    multipart    forms with files, read whole
    job          one virtual job
    faults       the plan of faults and the dice          config       every knob

A submission's way: key → request rate → faults that refuse → idempotency → body → parent → cap → credits → a job. From
there a timer moves it. Everything up to the job's insertion happens without an await, so two submissions with one
idempotency key make one job. One event loop owns the world: other threads steer it over HTTP, by `/sim`.

Faults strike by dice that are thrown from the seed, the submission's number and the fault's name: the same seed and the
same order of submissions give the same faults, whatever the clock does. `next` scripts them one submission at a time.
"""
