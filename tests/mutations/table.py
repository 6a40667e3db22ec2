"""Ways to break the kernel's rules: one change of the source each, which a test named after the rule must notice."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutation(NamedTuple):
    """`old` stands in `file` exactly once; with `new` in its place the rule does not hold any more, for this reason."""

    rule: int
    file: str
    old: str
    new: str
    why: str


RULES: Final = {
    1: "Unsent means never possibly received: a job counts as sent from the claim's commit on, before the POST",
    2: "The wire is frozen before the first send, and anything else goes under a derived key after definite 400s only",
    3: "The upstream's first final status stays; our own conclusion yields to one once",
    4: "Slots are counted under the account's lock; the fair next job takes a free one, and nobody overtakes",
    5: "Locks are taken in one order, and what PostgreSQL gave up for another is run again",
    6: "The event log's order is the order of commits, and a cursor passes everything that does not concern its reader",
    7: "What is claimed starts now and ends well before its lease; outcomes are recorded under that lease only",
    8: "A COMMIT of unknown fate is looked up before anybody is answered; a client that leaves cancels nothing",
    9: "Only receipts that were applied keep later ones from being applied",
    15: "Result files are written down with their job's end; what one attempt has stored whole, under its lease, is served",
}
"""The kernel's rules that can be broken today."""

MUTATIONS: Final = (
    Mutation(
        1,
        "app/jobs/queries/dispatch.py",
        "ambiguous_since = coalesce(jobs.ambiguous_since, :now)",
        "ambiguous_since = jobs.ambiguous_since",
        "a job that is being sent passes for unsent",
    ),
    Mutation(
        1,
        "app/jobs/queries/dispatch.py",
        "ambiguous_since = coalesce(jobs.ambiguous_since, :now)",
        "ambiguous_since = :now",
        "every attempt begins the upstream's 24 hours anew",
    ),
    Mutation(
        1,
        "app/jobs/dispatch.py",
        "first = job.ambiguous_by == claim.lease",
        "first = True",
        "a refusal to a repetition takes back what an earlier attempt may have done",
    ),
    Mutation(
        1,
        "app/jobs/dispatch.py",
        "result.retry_after_seconds, unsent=False)",
        "result.retry_after_seconds, unsent=True)",
        "no answer, or a 5xx, counts as a refusal",
    ),
    Mutation(
        1,
        "app/jobs/queries/dispatch.py",
        "ambiguous_since = CASE WHEN done.unsent THEN NULL ELSE ambiguous_since END",
        "ambiguous_since = ambiguous_since",
        "a job that was definitely refused passes for sent",
    ),
    Mutation(
        1,
        "app/jobs/actions.py",
        "if job.sent or job.state.settled:",
        "if job.state.settled:",
        "a job that the upstream may hold is cancelled",
    ),
    Mutation(
        2,
        "app/jobs/claim.py",
        "if row.wire_key is None:",
        "if row.wire_key is None or row.ambiguous_since is not None:",
        "a repetition is spelled as is configured by then",
    ),
    Mutation(
        2,
        "app/jobs/claim.py",
        "ctx.upstream_key if row.ambiguous_since is None else ctx.upstream_keys[row.upstream_key]",
        "ctx.upstream_key",
        "a repetition goes under another account's key, which makes a second job",
    ),
    Mutation(
        2,
        "app/jobs/queries/acceptance.py",
        "        body, CAST(metadata AS jsonb),",
        "        convert_to(CAST(convert_from(body, 'UTF8') AS jsonb) #>> '{{}}', 'UTF8'), CAST(metadata AS jsonb),",
        "JSONB has its own order and numbers",
    ),
    Mutation(
        2,
        "app/jobs/claim.py",
        'wire_key = f"{self.job_id}:{len(trail)}"',
        "wire_key = self.wire_key",
        "two bodies go under one key",
    ),
    Mutation(
        2,
        "app/jobs/refusals.py",
        "if not first or refusal.status not in telling:",
        "if refusal.status not in telling:",
        "a refusal to a repetition derives another key or fails a job that the upstream may hold",
    ),
    Mutation(
        3,
        "app/jobs/states.py",
        'return state.concluded_by == "framehook" and ',
        "return ",
        "a second final of the upstream overwrites the first",
    ),
    Mutation(
        3,
        "app/jobs/states.py",
        'return state.concluded_by == "framehook" and ',
        "return False and ",
        "our own conclusion never yields",
    ),
    Mutation(
        3,
        "app/jobs/states.py",
        'concluded_by="framehook" if seen.source == "framehook" else "upstream"',
        'concluded_by=state.concluded_by or ("framehook" if seen.source == "framehook" else "upstream")',
        "our own conclusion yields again and again",
    ),
    Mutation(
        4,
        "app/jobs/queries/account.py",
        "WHERE id = :account FOR UPDATE",
        "WHERE id = :account",
        "two claims count the same free slots",
    ),
    Mutation(
        4,
        "app/models/jobs.py",
        '"ambiguous_since IS NOT NULL AND status IN',
        '"upstream_id IS NOT NULL AND status IN',
        "a job of unknown fate holds no slot",
    ),
    Mutation(
        4,
        "app/jobs/queries/dispatch.py",
        "AND (dispatch_at <= :now OR id = ANY(CAST(:wanted AS uuid[])))",
        "AND (CAST(:wanted AS uuid[]) IS NULL AND dispatch_at <= :now OR id = ANY(CAST(:wanted AS uuid[])))",
        "a submission whose caller waits overtakes the queue",
    ),
    Mutation(
        4,
        "app/jobs/queries/dispatch.py",
        "coalesce(load.running, 0) + row_number()",
        "row_number()",
        "a team that has much running is served like one that has nothing",
    ),
    Mutation(
        4,
        "app/jobs/claim.py",
        "return min(cap, state.cap_lowered_to) if lowered else cap",
        "return cap",
        "the upstream is asked for more than it just refused",
    ),
    Mutation(
        5,
        "app/jobs/queries/door.py",
        "ORDER BY id FOR UPDATE",
        "FOR UPDATE",
        "jobs are locked in the order in which they are found",
    ),
    Mutation(
        5,
        "app/jobs/queries/acceptance.py",
        "ORDER BY team_id, key, job_id\n",
        "\n",
        "idempotency keys are claimed in the order in which they came",
    ),
    Mutation(
        5,
        "app/batch.py",
        "is_conflict(error) or is_outage(error)",
        "is_outage(error)",
        "a deadlock is told to callers",
    ),
    Mutation(
        6,
        "app/events/queries.py",
        "SELECT pg_advisory_xact_lock(",
        "SELECT pg_advisory_xact_lock_shared(",
        "a later number is committed before a smaller one",
    ),
    Mutation(
        6,
        "app/webhooks/receive.py",
        "    await insert_receipts(\n",
        "    await announce(ctx, tx, heard.values())\n    await insert_receipts(\n",
        "the log is held while other work is done",
    ),
    Mutation(
        6,
        "app/db.py",
        "idle_in_transaction_session_timeout = '{STALLED_TRANSACTION_SECONDS}s'",
        "idle_in_transaction_session_timeout = '{STALLED_TRANSACTION_SECONDS * 100}s'",
        "a writer that stops holds the log for ever",
    ),
    Mutation(
        6,
        "app/events/feed.py",
        "return Page(rows, place.head, more=False)",
        "return Page(rows, rows[-1].sequence if rows else place.cursor, more=False)",
        "a reader of few events reads over the others again and again, and its cursor is gone one day",
    ),
    Mutation(
        6,
        "app/events/feed.py",
        "if start < log.forgotten_through:",
        "if False:",
        "a reader that was away for too long is not told what it missed",
    ),
    Mutation(
        6,
        "app/ops/pruning.py",
        "list_forgotten_days(tx, now - GRACE)",
        "list_forgotten_days(tx, now + GRACE)",
        "events are dropped under a reader that was not refused",
    ),
    Mutation(
        7,
        "app/jobs/dispatch.py",
        "if job.lease_token != claim.lease:",
        "if False:",
        "a late outcome is recorded under somebody else's lease",
    ),
    Mutation(
        7,
        "app/apiframe/client.py",
        "asyncio.timeout(self._timeout_seconds)",
        "asyncio.timeout(None)",
        "an upstream that sends a byte now and then is waited for past the lease",
    ),
    Mutation(
        7,
        "app/config.py",
        "return self.upstream_timeout_seconds + 10",
        "return self.upstream_timeout_seconds + 4",
        "too little time is left to record what came of an attempt",
    ),
    Mutation(
        7,
        "app/jobs/dispatch.py",
        "return [ctx.start(send(ctx, claim)) for claim in claims]",
        "return [ctx.start(send(ctx, claim)) for claim in claims[:1]]",
        "a lease runs while nobody sends the job",
    ),
    Mutation(
        7,
        "app/jobs/claim.py",
        "if allowed >= 1 else 0, ctx.upstream.free_submissions)",
        "if allowed >= 1 else 0, 1000)",
        "more is claimed than can start now",
    ),
    Mutation(
        8,
        "app/batch.py",
        "is_conflict(error) or is_outage(error)",
        "is_conflict(error)",
        "a COMMIT that may be done is told as an error",
    ),
    Mutation(
        8,
        "app/jobs/queries/acceptance.py",
        "ON CONFLICT (id) DO NOTHING",
        "",
        "a submission that was committed cannot be found again by its id",
    ),
    Mutation(
        8,
        "app/batch.py",
        "for call, answer in answered:\n                if not call.answer.done():",
        "for call, answer in answered:\n                if True:",
        "a caller that left keeps its neighbours from their answers",
    ),
    Mutation(
        8,
        "app/jobs/dispatch.py",
        "asyncio.shield(sending)",
        "sending",
        "a caller that leaves takes its POST along",
    ),
    Mutation(
        9,
        "app/webhooks/queries.py",
        "r.digest = asked.digest AND r.applied",
        "r.digest = asked.digest",
        "a receipt that was not applied shadows a later one",
    ),
    Mutation(
        9,
        "app/webhooks/receive.py",
        "applied=answer.outcome in APPLIED",
        "applied=True",
        "a receipt that was only kept counts as applied",
    ),
    Mutation(
        9,
        "app/webhooks/receive.py",
        'webhook.signature == "valid" and webhook.seen and',
        "webhook.seen and",
        "a copy that is not believed takes the signed one's place",
    ),
    Mutation(
        7,
        "app/jobs/attempts.py",
        "async with asyncio.timeout_at(deadline):",
        "async with asyncio.timeout(ctx.settings.upstream_timeout_seconds):",
        "an attempt takes two deadlines and outlasts its lease",
    ),
    Mutation(
        8,
        "app/jobs/submit.py",
        "promised = await ctx.batched(promise, job.id)",
        "async with ctx.db.transaction() as tx:\n        (promised,) = await promise(ctx, tx, [job.id])",
        "a caller whose job is kept is told that the database is away",
    ),
    Mutation(
        15,
        "app/jobs/observe.py",
        "await insert_files(tx, [file for job in ended for file in files_of(job, ctx.archived, ctx.now())], now=ctx.now())",
        "wanted = [file for job in ended for file in files_of(job, ctx.archived, ctx.now())]\n"
        "    async def write_down() -> None:\n"
        "        async with ctx.db.transaction() as other:\n"
        "            await insert_files(other, wanted, now=ctx.now())\n"
        "    ctx.start(write_down())",
        "files are written down after their job's end, and a crash in between forgets them",
    ),
    Mutation(
        15,
        "app/jobs/archiving.py",
        "counted = [one for one in fetched if one.claimed.id in ours]",
        "counted = list(fetched)",
        "an attempt whose lease is another's records its file all the same",
    ),
    Mutation(
        15,
        "app/jobs/archiving.py",
        "[name for name in names if name not in needed]",
        "list(names)",
        "an attempt that does not hear of its own record removes what is served",
    ),
    Mutation(
        15,
        "app/archive/keep.py",
        "/{file_id}.{attempt}",
        "/{file_id}",
        "an overtaken attempt writes over what is served, and removes it",
    ),
    Mutation(
        15,
        "app/archive/serve.py",
        'if file.status != "stored":',
        "if file.object is None:",
        "what was declared deleted is served for as long as its object is there",
    ),
)
