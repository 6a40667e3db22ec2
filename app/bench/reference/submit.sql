-- One submission in one transaction: the job under its unique key.
\set turn :turn + 1
\set job :first + (:turn - 1) * :clients + :client_id
INSERT INTO reference.jobs (key, status, input) VALUES ('bench-' || :job, 'QUEUED', CAST(:payload AS jsonb));
