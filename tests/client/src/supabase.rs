//! Stand-ins for a database on Supabase that AIMQ has been used in: Supabase's roles and `realtime.send`, AIMQ's
//! function and trigger. Written for these tests; no Supabase runs here.

use std::sync::Once;

use postgres::Client;

use crate::{Database, quoted, run};

/// The stand-ins. Broadcasts are rows of `realtime.said`.
const SUPABASE: &str = "
    -- stand-in for Supabase's function
    CREATE SCHEMA realtime;
    CREATE TABLE realtime.said (at bigint GENERATED ALWAYS AS IDENTITY, payload jsonb, event text, topic text, private boolean);
    CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void
        LANGUAGE sql SECURITY DEFINER
        AS 'INSERT INTO realtime.said (payload, event, topic, private) VALUES ($1, $2, $3, $4)';
    CREATE EXTENSION pgmq;
    CREATE SCHEMA pgmq_public;
    GRANT USAGE ON SCHEMA pgmq_public TO anon, authenticated, service_role;
    -- stand-in for AIMQ's function of the same name
    CREATE FUNCTION pgmq_public.create_queue(queue_name text, with_realtime boolean DEFAULT true,
                                             channel_name text DEFAULT 'worker-wakeup', event_name text DEFAULT 'job_enqueued')
        RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS $$ SELECT '{}'::jsonb $$;
    GRANT EXECUTE ON FUNCTION pgmq_public.create_queue TO authenticated, service_role;
    -- stand-in for AIMQ's trigger
    CREATE SCHEMA aimq;
    CREATE FUNCTION aimq.pgmq_notify_job_enqueued() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        PERFORM realtime.send(jsonb_build_object('queue', TG_ARGV[2], 'job_id', NEW.msg_id), TG_ARGV[1], TG_ARGV[0], false);
        RETURN NEW;
    END $$;";

/// Supabase's roles are the whole server's: made once, by whichever test comes first.
fn make_roles() {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        let database = Database::empty();
        let mut client = database.connect();
        for role in ["anon", "authenticated", "service_role"] {
            run(
                &mut client,
                &format!(
                    "DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
                ),
            );
        }
    });
}

/// From here on, the tables that a superuser makes in pgmq's schema belong to an ordinary role, which this returns:
/// what belongs to a superuser is not broadcast. It may make queues, and call what is in the schema `realtime`.
pub fn ordinary_owner(database: &Database, client: &mut Client) -> String {
    let owner = database.role("owner");
    run(
        client,
        &format!(
            "GRANT ALL ON SCHEMA pgmq TO {owner}; GRANT USAGE ON SCHEMA realtime TO {owner};
             ALTER TABLE pgmq.meta OWNER TO {owner};
             GRANT ALL ON ALL TABLES IN SCHEMA realtime TO {owner};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA realtime TO {owner};
             CREATE FUNCTION public.give_away() RETURNS event_trigger LANGUAGE plpgsql AS $$
             DECLARE made regclass;
             BEGIN
                 FOR made IN
                     SELECT c.oid
                       FROM pg_catalog.pg_event_trigger_ddl_commands() d
                       JOIN pg_catalog.pg_class c ON c.oid = d.objid
                       JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
                      WHERE d.object_type = 'table' AND d.schema_name = 'pgmq' AND r.rolsuper
                 LOOP
                     EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO {owner}', made);
                 END LOOP;
             END $$;
             CREATE EVENT TRIGGER give_away ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
             EXECUTE FUNCTION public.give_away()"
        ),
    );
    owner
}

/// A database as AIMQ leaves it, without a queue.
pub fn supabase() -> (Database, Client) {
    make_roles();
    let database = Database::empty();
    let mut client = database.connect();
    run(&mut client, SUPABASE);
    ordinary_owner(&database, &mut client);
    (database, client)
}

/// AIMQ's trigger on a queue's table.
pub fn attach(client: &mut Client, queue: &str, trigger: &str, channel: &str, event: &str) {
    run(
        client,
        &format!(
            "CREATE TRIGGER {} AFTER INSERT ON pgmq.q_{queue} FOR EACH ROW
             EXECUTE FUNCTION aimq.pgmq_notify_job_enqueued('{channel}', '{event}', '{queue}')",
            quoted(trigger)
        ),
    );
}
