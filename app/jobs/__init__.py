"""Jobs: accepted once, sent at most once that counts, observed through one door.

    accepted ──claim──▶ sent (ambiguous) ──answer──▶ QUEUED ──▶ PROCESSING ──▶ COMPLETED | FAILED | CANCELLED
        ▲                    │    │
        └──a definite 4xx────┘    └──timeout, 5xx, crash: sent again under the same key, byte for byte

`submit` accepts: from its commit on, the promise holds. `dispatch` claims a slot, sends with no transaction open, records
what came of it. `reconcile` asks the upstream where nothing was heard. `observe` is the one door: submit answers, webhooks
and polls all pass through it, and nothing else writes `Job.status`. `states` is its judge, and pure. `reading` serves
callers.

The upstream's first final status stays. A FAILED that we concluded ourselves yields once to a later upstream final.
"""
