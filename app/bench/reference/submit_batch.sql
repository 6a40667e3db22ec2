-- As many submissions as there are payloads in one transaction, each the same work as in submit.sql.
\set turn :turn + 1
\set job :first + ((:turn - 1) * :clients + :client_id) * :batch
INSERT INTO reference.jobs (key, status, input)
SELECT 'bench-' || (CAST(:job AS bigint) + place), 'QUEUED', CAST(payload AS jsonb)
FROM unnest(CAST(:payload AS text[])) WITH ORDINALITY AS each (payload, place);
