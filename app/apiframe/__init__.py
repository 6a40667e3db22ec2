"""The upstream. This package alone spells Apiframe's wire format; everything above it speaks of Observations.

`client` calls, `wire` reads answers and webhooks, `errors` says what a refusal means, `spelling` negotiates the webhook
field, `signature` proves that a webhook is the upstream's. `catalog` knows what a submission may contain: by `rules`, the
upstream's own document, which `wording` puts into words, or by `checks` of our own.
"""
