"""Jobs: accepted once, sent at most once that counts, observed through one door.

    accepted ──claim──▶ sent (ambiguous) ──answer──▶ QUEUED ──▶ PROCESSING ──▶ COMPLETED | FAILED | CANCELLED
        ▲                    │    │
        └──a definite 4xx────┘    └──timeout, 5xx, crash: sent again under the same key, byte for byte

`submit` accepts, within the team's limits (`admission`): from its commit on, the promise holds. `dispatch` sends with no
transaction open: `claim` takes a slot and freezes the wire, `attempts` is the POST, `refusals` says what a 4xx means,
`learning` and `breaker` keep what it teaches of the upstream. `reconcile` asks where nothing was heard, when `schedule` and
`durations` say; `expire` ends what nobody will end. `observe` is the one door: submit answers, webhooks and polls all pass
through it, and nothing else writes `Job.status`. `states` is its judge, and pure. `reading` and `actions` serve callers.

Locks are taken in one order: the account, jobs by id, idempotency keys by (team, key), rows of limited teams by id (in
`admission`), their balances, subscriptions, deliveries, the event log.

The upstream's first final status stays. A FAILED that we concluded ourselves yields once to a later upstream final.
"""
