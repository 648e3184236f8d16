-- Fails, with a hint, for a pgmq that is too old: what follows needs its functions.
SELECT aimq._check_pgmq();

-- Its plans walk the index on vt, also where the statistics are from when the queue was empty.
ALTER FUNCTION aimq._ready(text[], boolean)
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off;

-- Blocking calls. They look, arm, look again, and sleep until they are called (src/waiting/); each look has a snapshot
-- of its own, as statements of a volatile function have under READ COMMITTED. A look that finds nothing is rolled back,
-- which gives its locks back: otherwise DDL would wait for a session that sleeps with them, and all others would wait
-- for the DDL. When the time is over they look a last time, for messages that nobody is called for.

-- A type of our own, as pgmq 1.13 has it: pgmq's updates drop theirs, and with it all that depends on it.
CREATE TYPE aimq.message_record AS (
    msg_id bigint,
    read_ct integer,
    enqueued_at timestamptz,
    last_read_at timestamptz,
    vt timestamptz,
    message jsonb,
    headers jsonb
);
COMMENT ON TYPE aimq.message_record IS 'What aimq.read returns: pgmq.message_record';
COMMENT ON COLUMN aimq.message_record.msg_id IS 'The message''s number';
COMMENT ON COLUMN aimq.message_record.read_ct IS 'How often it was read, this time included';
COMMENT ON COLUMN aimq.message_record.enqueued_at IS 'When it was enqueued';
COMMENT ON COLUMN aimq.message_record.last_read_at IS 'When it was read last; null before pgmq 1.10';
COMMENT ON COLUMN aimq.message_record.vt IS 'When it can be read again';
COMMENT ON COLUMN aimq.message_record.message IS 'The message';
COMMENT ON COLUMN aimq.message_record.headers IS 'Its headers';

CREATE FUNCTION aimq.read(
        queue text, vt integer, qty integer DEFAULT 1, max_wait interval DEFAULT '30 seconds',
        conditional jsonb DEFAULT '{}'
    ) RETURNS SETOF aimq.message_record
    LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    has_found boolean;
    is_over boolean := false;
BEGIN
    PERFORM aimq._check_wait('aimq.read', ARRAY[$1], $3, $2 IS NULL, $4 IS NULL, $5 IS NULL);
    LOOP
        BEGIN
            has_found := pg_catalog.cardinality(aimq._ready(ARRAY[$1], false)) OPERATOR(pg_catalog.>) 0;
            IF has_found THEN
                -- Where pgmq.read returns no last_read_at, the name is that of the outer query's null.
                RETURN QUERY
                    SELECT m.*
                      FROM (SELECT NULL::pg_catalog.timestamptz AS last_read_at) none
                     CROSS JOIN LATERAL (
                            SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers
                              FROM pgmq.read($1, $2, $3, $5)
                           ) m;
                has_found := FOUND;
            END IF;
            IF NOT has_found THEN
                RAISE SQLSTATE 'AIMQ0';
            END IF;
        EXCEPTION WHEN SQLSTATE 'AIMQ0' THEN
            NULL;
        END;
        EXIT WHEN has_found OR is_over;
        CONTINUE WHEN aimq._arm(
            ARRAY[$1], CASE WHEN $5 OPERATOR(pg_catalog.=) '{}' THEN $3 ELSE 0 END,
            extract(epoch FROM $4)::pg_catalog.float8, false
        );
        is_over := NOT aimq._sleep();
    END LOOP;
    PERFORM aimq._leave();
END
$$;

CREATE FUNCTION aimq.wait(queues text[], max_wait interval DEFAULT '30 seconds') RETURNS text[]
    LANGUAGE plpgsql
AS $$
DECLARE
    ready text[];
    is_ready boolean;
    is_over boolean := false;
BEGIN
    PERFORM aimq._check_wait('aimq.wait', $1, 1, false, $2 IS NULL, false);
    LOOP
        BEGIN
            ready := aimq._ready($1, true);
            is_ready := pg_catalog.cardinality(ready) OPERATOR(pg_catalog.>) 0;
            IF NOT is_ready THEN
                RAISE SQLSTATE 'AIMQ0';
            END IF;
        EXCEPTION WHEN SQLSTATE 'AIMQ0' THEN
            NULL;
        END;
        EXIT WHEN is_ready OR is_over;
        CONTINUE WHEN aimq._arm($1, 1, extract(epoch FROM $2)::pg_catalog.float8, false);
        is_over := NOT aimq._sleep();
    END LOOP;
    PERFORM aimq._leave();
    RETURN ready;
END
$$;

CREATE PROCEDURE aimq.wait_for(
        queues text[], max_wait interval DEFAULT '30 seconds', INOUT ready text[] DEFAULT NULL
    )
    LANGUAGE plpgsql
AS $$
DECLARE
    is_over boolean := false;
BEGIN
    PERFORM aimq._check_commit('aimq.wait_for');
    PERFORM aimq._check_wait('aimq.wait_for', $1, 1, false, $2 IS NULL, false);
    LOOP
        ready := aimq._ready($1, true);
        EXIT WHEN is_over OR pg_catalog.cardinality(ready) OPERATOR(pg_catalog.>) 0;
        CONTINUE WHEN aimq._arm($1, 1, extract(epoch FROM $2)::pg_catalog.float8, true);
        -- Gives back the locks and snapshots that the look took.
        COMMIT;
        CALL aimq._doze();
        is_over := NOT aimq._is_called();
    END LOOP;
    PERFORM aimq._leave();
END
$$;

CREATE PROCEDURE aimq.read_for(
        queue text, vt integer, qty integer DEFAULT 1, max_wait interval DEFAULT '30 seconds',
        conditional jsonb DEFAULT '{}', INOUT messages jsonb DEFAULT NULL
    )
    LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    is_over boolean := false;
    -- How many messages to read at most. A jsonb holds 256 MB: where the messages have more, half as many are read in
    -- another try. The savepoint undoes the read of messages that would not be returned.
    most integer := $3;
BEGIN
    PERFORM aimq._check_commit('aimq.read_for');
    PERFORM aimq._check_wait('aimq.read_for', ARRAY[$1], $3, $2 IS NULL, $4 IS NULL, $5 IS NULL);
    $6 := NULL;
    LOOP
        WHILE pg_catalog.cardinality(aimq._ready(ARRAY[$1], false)) OPERATOR(pg_catalog.>) 0 LOOP
            BEGIN
                $6 := (
                    SELECT pg_catalog.jsonb_agg(m)
                      FROM (SELECT NULL::pg_catalog.timestamptz AS last_read_at) none
                     CROSS JOIN LATERAL (
                            SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers
                              FROM pgmq.read($1, $2, most, $5)
                           ) m
                );
                EXIT;
            EXCEPTION WHEN program_limit_exceeded THEN
                IF most OPERATOR(pg_catalog.<=) 1 THEN
                    RAISE;
                END IF;
                most := most OPERATOR(pg_catalog./) 2;
            END;
        END LOOP;
        EXIT WHEN $6 IS NOT NULL OR is_over;
        CONTINUE WHEN aimq._arm(
            ARRAY[$1], CASE WHEN $5 OPERATOR(pg_catalog.=) '{}' THEN $3 ELSE 0 END,
            extract(epoch FROM $4)::pg_catalog.float8, true
        );
        -- As in aimq.wait_for.
        COMMIT;
        CALL aimq._doze();
        is_over := NOT aimq._is_called();
    END LOOP;
    IF most OPERATOR(pg_catalog.<) $3 THEN
        PERFORM aimq._leave_rest();
    ELSE
        PERFORM aimq._leave();
    END IF;
    $6 := coalesce($6, '[]');
END
$$;

CREATE VIEW aimq.waiters AS
    SELECT w.pid, a.usename AS role, a.application_name, w.queues, w.since
      FROM aimq._waiters() w
      LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) w.pid;
COMMENT ON VIEW aimq.waiters IS 'The sessions of this database that block in aimq.read or aimq.wait; none without SELECT on pgmq.meta';
COMMENT ON COLUMN aimq.waiters.pid IS 'The session''s process';
COMMENT ON COLUMN aimq.waiters.role IS 'Its role';
COMMENT ON COLUMN aimq.waiters.application_name IS 'Its application_name';
COMMENT ON COLUMN aimq.waiters.queues IS 'The queues that it waits for';
COMMENT ON COLUMN aimq.waiters.since IS 'When the call began to wait';
