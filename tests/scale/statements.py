"""The SQL that makes up a history. `$1` and `$2` are the first and last number of the jobs that a statement makes, `$3` of
how many in all, `$4` the time that the history ends at; what is made of jobs that are there begins at the time `$1`."""

from __future__ import annotations

from typing import Final

from app.jobs.queries.words import LONGEST_LABEL

DAYS: Final = 180
TEAMS: Final = 20
OPEN: Final = 4000
"""The newest jobs, most of which are not over."""

MODELS: Final = (
    ("images/generate", "flux-1.1-pro-ultra"),
    ("images/generate", "midjourney"),
    ("images/generate", "nano-banana"),
    ("images/generate", "seedream-4"),
    ("videos/generate", "kling-2.6"),
    ("music/generate", "suno-v5"),
    ("images/edit", "flux-fill-pro"),
    ("images/upscale", "topaz-image-upscale"),
    ("videos/generate", "veo-3.1"),
    ("images/background-remove", "bria-bg-remove"),
    ("videos/edit", "wan-2.7-videoedit"),
    ("videos/upscale", "topaz-video-upscale"),
)
"""The common ones first."""

CODES: Final = (
    "upstream_failed",
    "upstream_failed",
    "content_rejected",
    "timeout",
    "deadline",
    "submission_unknown",
    "lost",
)

COMMON: Final = (
    *(
        "castle",
        "storm",
        "lighthouse",
        "portrait",
        "forest",
        "night",
        "neon",
        "city",
        "mountain",
        "river",
        "cat",
        "robot",
    ),
    *("a", "the", "in", "of", "with", "red", "blue", "golden", "cinematic", "detailed", "photo", "painting", "style"),
)
"""Each is in many prompts. `quokka` is in one of 5,000, `axolotl` in one of 200,000, `take17` in that one job."""


def _strings(values: tuple[str, ...]) -> str:
    return f"ARRAY[{', '.join(map(repr, values))}]"


OPERATIONS: Final = _strings(tuple(operation for operation, _ in MODELS))
NAMES: Final = _strings(tuple(name for _, name in MODELS))

PROMPTS: Final = f"""
    CREATE UNLOGGED TABLE scale_prompts AS
    SELECT n AS number, prompt, to_tsvector('simple', prompt) AS words
    FROM generate_series(0, 19999) AS n CROSS JOIN LATERAL (
        SELECT string_agg(
            CASE WHEN random() + 0 * word < 0.6 THEN ({_strings(COMMON)})[1 + floor(random() * {len(COMMON)})]
                 ELSE translate(to_hex(floor(word * 0 + 4000 * power(random(), 3))::int + 256), '0123456789abcdef',
                      'kalomiratenesuvo') END, ' ') AS prompt
        FROM generate_series(1, 8 + n % 9) AS word
    ) AS made
    """

JOBS: Final = f"""
    INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, metadata, status, progress,
        result, error, error_code, credit_cost, completed_at, concluded_by, ended_by, upstream_account, upstream_id,
        upstream_key, accepted_at, wire_body, wire_key, ambiguous_since, dispatch_at, dispatch_count, overdue_at)
    SELECT id, teams.ids[team], keys.ids[2 * team - CAST(dice_2 < 0.8 AS int)], created_at, ended_at,
        ({OPERATIONS})[model], ({NAMES})[model], input,
        CASE WHEN n % 3 > 0 THEN jsonb_strip_nulls(jsonb_build_object('shot', n % 5000, 'campaign', 'c' || n % 12,
            'order', CASE WHEN n % 50 = 0 THEN 'o-' || n END)) END,
        status, CASE status WHEN 'COMPLETED' THEN 100 WHEN 'PROCESSING' THEN n % 100 END,
        CASE WHEN status = 'COMPLETED'
            THEN jsonb_build_object('images', jsonb_build_array('https://cdn.example.com/results/' || id || '/0.png')) END,
        CASE WHEN status = 'FAILED' THEN 'The generation failed: ' || code END,
        CASE WHEN status = 'FAILED' THEN code END, CASE WHEN status = 'COMPLETED' THEN 1 + n % 40 END,
        CASE WHEN is_over THEN ended_at END, CASE WHEN is_over THEN 'upstream' END,
        CASE WHEN is_over THEN CASE WHEN dice_6 < 0.97 THEN 'webhook' ELSE 'poll' END END,
        'upstream.example', CASE WHEN status <> 'QUEUED' THEN gen_random_uuid()::text END, 'k1',
        CASE WHEN status <> 'QUEUED' THEN created_at + interval '1 s' * (0.3 + dice_7) END,
        convert_to(input::text, 'UTF8'), id::text, CASE WHEN status = 'PROCESSING' THEN created_at END,
        CASE WHEN status = 'QUEUED' THEN created_at END, CAST(status <> 'QUEUED' AS int),
        CASE WHEN NOT is_over THEN created_at + interval '5 min' END
    FROM (
        SELECT *, created_at + interval '1 s' * (2 + 60 * dice_5) AS ended_at,
            status NOT IN ('QUEUED', 'PROCESSING') AS is_over,
            jsonb_build_object('model', ({NAMES})[model], 'prompt', prompt) AS input
        FROM (
            SELECT numbers.*,
                (lpad(to_hex(floor(extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3)
                    || '8' || substr(hash, 4, 15))::uuid AS id,
                1 + floor({TEAMS} * power(dice_1, 2.5))::int AS team,
                1 + floor({len(MODELS)} * power(dice_3, 2))::int AS model,
                ({_strings(CODES)})[1 + floor({len(CODES)} * dice_5)::int] AS code,
                CASE WHEN n > $3 - least({OPEN}, $3 / 20) AND dice_8 < 0.8
                         THEN CASE WHEN n % 5 = 0 THEN 'PROCESSING' ELSE 'QUEUED' END
                     WHEN dice_4 < 0.965 THEN 'COMPLETED' WHEN dice_4 < 0.995 THEN 'FAILED' ELSE 'CANCELLED' END AS status
            FROM (
                SELECT n, $4::timestamptz - ($3 - n) * (interval '{DAYS} days' / $3) AS created_at, md5(n::text) AS hash,
                    {", ".join(f"random() AS dice_{number}" for number in range(1, 9))}
                FROM generate_series($1::bigint, $2::bigint) AS n
            ) AS numbers
        ) AS drawn
        JOIN LATERAL (SELECT drawn.n % 20000 AS number) AS pick ON true
        JOIN LATERAL (
            SELECT prompts.prompt || CASE WHEN drawn.n % 20 = 7 THEN ' take' || drawn.n ELSE '' END
                || CASE WHEN drawn.n % 5000 = 11 THEN ' quokka' ELSE '' END
                || CASE WHEN drawn.n % 200000 = 13 THEN ' axolotl' ELSE '' END AS prompt
            FROM scale_prompts AS prompts WHERE prompts.number = pick.number
        ) AS prompts ON true
    ) AS made
    CROSS JOIN (SELECT array_agg(id ORDER BY name) AS ids FROM teams WHERE name LIKE 'scale-%') AS teams
    CROSS JOIN (SELECT array_agg(id ORDER BY name) AS ids FROM api_keys WHERE name LIKE 'scale-%') AS keys
    """

# What `insert_words` makes of them, with the words of each prompt read once.
WORDS: Final = f"""
    INSERT INTO job_words (job_id, words)
    SELECT jobs.id,
        prompts.words || to_tsvector('simple', substr(input ->> 'prompt', length(prompts.prompt) + 1)) || array_to_tsvector(
            ARRAY['operation=' || operation, 'team=' || team_id,
                'day=' || to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')] || ARRAY(
                SELECT left('metadata ' || key || '=' || value, {LONGEST_LABEL})
                FROM jsonb_each_text(coalesce(metadata, '{{}}')) WHERE value IS NOT NULL
            )
        )
    FROM generate_series($1::bigint, $2::bigint) AS n
    JOIN jobs ON jobs.id = (
        SELECT (lpad(to_hex(floor(extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid
        FROM (SELECT $4::timestamptz - ($3::bigint - n) * (interval '{DAYS} days' / $3::bigint) AS created_at) AS at
    )
    JOIN scale_prompts AS prompts ON prompts.number = n % 20000
    """

LEDGER: Final = """
    INSERT INTO ledger (id, at, team_id, month, job_id, operation, model, kind, reserved_change, spent_change)
    SELECT gen_random_uuid(), CASE kind WHEN 'reserve' THEN created_at ELSE completed_at END, team_id,
        CAST(date_trunc('month', created_at AT TIME ZONE 'UTC') AS date), id, operation, model, kind,
        CASE kind WHEN 'reserve' THEN 20 ELSE -20 END, CASE kind WHEN 'settle' THEN coalesce(credit_cost, 0) ELSE 0 END
    FROM jobs CROSS JOIN unnest(ARRAY['reserve', 'settle', 'release']) AS kind
    WHERE created_at >= $1 AND CASE kind WHEN 'reserve' THEN true WHEN 'settle' THEN status = 'COMPLETED'
        ELSE status IN ('FAILED', 'CANCELLED') END
    """

BEGIN_READING: Final = """
    INSERT INTO log_readers (name, sequence, updated_at, began_at)
    SELECT $1, coalesce(max(sequence), 0), $2, $3 FROM events
    """

BALANCES: Final = """
    INSERT INTO balances (team_id, month, reserved, spent)
    SELECT team_id, month, sum(reserved_change), sum(spent_change) FROM ledger GROUP BY 1, 2
    """

EVENTS: Final = """
    INSERT INTO events (id, at, sequence, type, team_id, job_id, data)
    SELECT gen_random_uuid(), at, nextval('event_numbers'), type, team_id, id, jsonb_build_object('id', id,
        'status', status, 'operation', operation, 'model', model, 'input', input, 'result', result, 'metadata', metadata)
    FROM (
        SELECT *,
            CASE type WHEN 'job.queued' THEN created_at WHEN 'job.dispatched' THEN accepted_at ELSE completed_at END AS at
        FROM jobs CROSS JOIN unnest(
            ARRAY['job.queued', 'job.dispatched', 'job.completed', 'job.failed', 'job.cancelled']
        ) AS type
        WHERE created_at >= $1
    ) AS told
    WHERE at IS NOT NULL AND (type IN ('job.queued', 'job.dispatched') OR type = 'job.' || lower(status))
    ORDER BY at
    """

SUBSCRIPTIONS: Final = """
    INSERT INTO subscriptions (id, team_id, created_at, updated_at, url, types, secret)
    SELECT gen_random_uuid(), id, now(), now(), 'https://subscriber.example/' || name, '{job.*}', 'whsec_' FROM teams
    WHERE name LIKE 'scale-%'
    """

DELIVERIES: Final = """
    INSERT INTO deliveries (id, event_id, event_at, event_type, team_id, job_id, subscription_id, target, created_at, status,
        reason, ended_at, due_at, retrying, attempt_count)
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(sequence::text), 1, 3)
            || '8' || substr(md5(sequence::text), 4, 15))::uuid,
        e.id, at, type, e.team_id, job_id, s.id, s.id::text, at,
        CASE WHEN sequence % 200 = 0 THEN 'undelivered' WHEN sequence % 500 = 1 THEN 'pending' ELSE 'delivered' END,
        CASE WHEN sequence % 200 = 0 THEN 'gave up' END,
        CASE WHEN sequence % 200 = 0 OR sequence % 500 <> 1 THEN at + interval '1 s' END,
        CASE WHEN sequence % 200 <> 0 AND sequence % 500 = 1 THEN at + interval '1 min' END, sequence % 500 = 1, 1
    FROM events e JOIN subscriptions s ON s.team_id = e.team_id WHERE at >= $1 AND type <> 'job.dispatched'
    """

ATTEMPTS: Final = """
    INSERT INTO attempts (id, delivery_id, at, number, seconds, status, request_headers, response_body)
    SELECT gen_random_uuid(), id, created_at + interval '1 s', 1, random(),
        CASE status WHEN 'delivered' THEN 200 ELSE 500 END,
        '{"content-type": "application/json"}', 'ok'
    FROM deliveries WHERE created_at >= $1
    """

STEPS: Final = """
    INSERT INTO steps (id, job_id, at, kind, source, data)
    SELECT gen_random_uuid(), id, CASE kind WHEN 'dispatch' THEN accepted_at ELSE completed_at END, kind,
        CASE kind WHEN 'dispatch' THEN 'submit' ELSE ended_by END, jsonb_build_object('to', status)
    FROM jobs CROSS JOIN unnest(ARRAY['dispatch', 'transition']) AS kind
    WHERE created_at >= $1 AND CASE kind WHEN 'dispatch' THEN accepted_at ELSE completed_at END IS NOT NULL
    """

RECEIPTS: Final = """
    INSERT INTO receipts (id, job_id, received_at, digest, signature, event, applied, outcome)
    SELECT (lpad(to_hex(floor(extract(epoch FROM completed_at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(id::text), 1, 3) || '8' || substr(md5(id::text), 4, 15))::uuid,
        id, completed_at, sha256(uuid_send(id)), 'valid', lower(status), true, 'applied'
    FROM jobs WHERE created_at >= $1 AND ended_by = 'webhook'
    """

RECEIPT_BODIES: Final = """
    INSERT INTO receipt_bodies (receipt_id, received_at, headers, body)
    SELECT id, received_at, '{}', convert_to('{"event": "completed", "jobId": "' || job_id || '"}', 'UTF8')
    FROM receipts WHERE received_at >= $1
    """

FILES: Final = """
    INSERT INTO files (id, job_id, team_id, position, source, created_at, completed_at, status, give_up_at, stored_at,
        object, content_type, byte_count, sha256, width, height)
    SELECT gen_random_uuid(), id, team_id, 0, result #>> '{images,0}', completed_at, completed_at, 'stored',
        completed_at + interval '1 day', completed_at, id || '/0', 'image/png', 1048576, sha256(uuid_send(id)), 1024, 1024
    FROM jobs WHERE created_at >= $1 AND status = 'COMPLETED'
    """

SPANS: Final = (("minutes", "5 min"), ("hour", "1 hour"), ("six_hours", "6 hours"), ("day", "1 day"))


def tallies(span: str, width: str) -> str:
    """Counts of a span, from the time `$1` on."""
    begins_at = f"date_bin(interval '{width}', %s, timestamptz '2000-01-01 00:00Z')"
    return f"""
        INSERT INTO tallies (span, begins_at, team_id, operation, model, submitted, completed, failed, cancelled, by_webhook,
            by_poll, credits)
        SELECT '{span}', at, team_id, operation, model, sum(submitted), sum(completed), sum(failed), sum(cancelled),
            sum(by_webhook), sum(by_poll), sum(credits)
        FROM (
            SELECT {begins_at % "created_at"} AS at, team_id, operation, model, count(*) AS submitted, 0 AS completed,
                0 AS failed, 0 AS cancelled, 0 AS by_webhook, 0 AS by_poll, 0 AS credits
            FROM jobs WHERE created_at >= $1 GROUP BY 1, 2, 3, 4
            UNION ALL
            SELECT {begins_at % "completed_at"}, team_id, operation, model, 0,
                count(*) FILTER (WHERE status = 'COMPLETED'), count(*) FILTER (WHERE status = 'FAILED'),
                count(*) FILTER (WHERE status = 'CANCELLED'), count(*) FILTER (WHERE ended_by = 'webhook'),
                count(*) FILTER (WHERE ended_by = 'poll'), sum(coalesce(credit_cost, 0))
            FROM jobs WHERE completed_at >= $1 GROUP BY 1, 2, 3, 4
        ) AS counted
        GROUP BY 1, 2, 3, 4, 5
        """


def timings(span: str, width: str) -> str:
    """Durations of a span by model, from the time `$1` on, in buckets that begin at `$2`: of each team, and of all."""
    return f"""
        INSERT INTO timings (span, begins_at, team_id, kind, model, bucket, job_count)
        SELECT '{span}', date_bin(interval '{width}', at, timestamptz '2000-01-01 00:00Z') AS begins_at, whose.team_id, kind,
            model, width_bucket(greatest(extract(epoch FROM took)::float8, 0), $2::float8[]) AS bucket, count(*)
        FROM jobs CROSS JOIN LATERAL (
            VALUES ('queue', accepted_at, accepted_at - created_at),
                ('generation', completed_at, completed_at - accepted_at)
        ) AS sample (kind, at, took)
        CROSS JOIN LATERAL (VALUES (team_id), ('00000000-0000-0000-0000-000000000000'::uuid)) AS whose (team_id)
        WHERE status = 'COMPLETED' AND at >= $1
        GROUP BY begins_at, whose.team_id, kind, model, bucket
        """
