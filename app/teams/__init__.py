"""Teams, what each may do, their API keys, and the audit log.

A key is shown once, when it is made; what is stored is its SHA-256. It ends when it expires or is revoked, and every
process refuses it within the second that a key is believed; one that is rotated goes on beside the key that takes its
place, for a grace. A team's limits are columns of its row, NULL for none. They are held by `auth` (requests),
`jobs/admission` (jobs that wait, and what may be used) and `jobs/queries/dispatch` (jobs in flight).

What admins and operators do is noted in the audit log, in the transaction that does it.
"""
