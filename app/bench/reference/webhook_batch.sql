-- As many webhooks as there are payloads in one transaction, each the same work as in webhook.sql.
\set turn :turn + 1
\set job :first + ((:turn - 1) * :clients + :client_id) * :batch
WITH asked AS (
    SELECT CAST(:job AS bigint) + place - 1 AS id, CAST(payload AS jsonb) AS payload
    FROM unnest(CAST(:payload AS text[])) WITH ORDINALITY AS each (payload, place)
), job AS (
    UPDATE reference.jobs SET status = 'COMPLETED', result = asked.payload, completed_at = now()
    FROM asked WHERE jobs.id = asked.id AND status = 'PROCESSING' RETURNING jobs.id, asked.payload
), event AS (
    INSERT INTO reference.events (job_id, type, data)
    SELECT id, 'job.completed', payload FROM job RETURNING id
)
INSERT INTO reference.deliveries (event_id, subscription_id) SELECT id, 1 FROM event;
