-- One webhook in one transaction: the job is completed if it was running, the event kept, its delivery made.
\set turn :turn + 1
\set job :first + (:turn - 1) * :clients + :client_id
WITH job AS (
    UPDATE reference.jobs SET status = 'COMPLETED', result = CAST(:payload AS jsonb), completed_at = now()
    WHERE id = :job AND status = 'PROCESSING' RETURNING id, result
), event AS (
    INSERT INTO reference.events (job_id, type, data)
    SELECT id, 'job.completed', result FROM job RETURNING id
)
INSERT INTO reference.deliveries (event_id, subscription_id) SELECT id, 1 FROM event;
