//! What an attacker tries, and what comes of it: a list for a role that has nothing, and one for a role that has
//! everything but superuser. Each attack ends in an error of a proper SQLSTATE or is harmless, and an honest listener
//! is woken after each.

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use postgres::Client;

/// What must come of an attack.
#[derive(Clone, Copy, Debug)]
enum Must {
    /// It fails with this SQLSTATE.
    Fail(&'static str),
    /// It succeeds, and does nothing to anybody else.
    BeHarmless,
}
use Must::{BeHarmless, Fail};

const DENIED: Must = Fail("42501");

/// For a role that may log in. `{listener}`, `{notifier}` and `{launcher}` are processes.
const OF_NOTHING: &[(&str, Must)] = &[
    // To learn of queues.
    ("SELECT * FROM aimq.queues", DENIED),
    ("SELECT * FROM aimq.stats", DENIED),
    ("SELECT * FROM aimq.doctor()", DENIED),
    ("SELECT aimq._queues()", DENIED),
    ("SELECT aimq._listed()", DENIED),
    ("SELECT 1 / count(*) FROM aimq._queue_counters()", Fail("22012")),
    ("SELECT 1 / count(*) FROM aimq._waiters()", Fail("22012")),
    ("SELECT 1 / count(*) FROM aimq.waiters", Fail("22012")),
    ("SELECT * FROM aimq.notifiers", BeHarmless),
    ("SELECT aimq.wait('{honest}', '1 ms')", DENIED),
    ("SELECT aimq.read('honest', 30, 1, '1 ms')", DENIED),
    ("SELECT aimq.read('honest\"; DROP TABLE pgmq.q_honest; --', 30, 1, '1 ms')", Fail("42P01")),
    ("SELECT aimq._ready('{honest}', true)", DENIED),
    // To wait for others' messages, or to sleep for ever.
    ("SELECT aimq._arm('{honest}', 1, 1e308, true)", BeHarmless),
    ("SELECT aimq._sleep()", BeHarmless),
    ("SELECT aimq._check_wait(NULL, NULL, NULL, NULL, NULL, NULL)", Fail("22004")),
    ("SELECT aimq._check_wait(NULL, '{honest}', 1, NULL, false, false)", Fail("22004")),
    ("CALL aimq._doze()", BeHarmless),
    ("SELECT aimq._is_called(), aimq._leave(), aimq._leave_rest()", BeHarmless),
    // To change what wakes whom.
    ("SELECT aimq.enable_realtime('honest', 'elsewhere')", DENIED),
    ("SELECT aimq.disable_realtime('honest')", DENIED),
    ("SELECT aimq.disable_realtime_all()", DENIED),
    ("SELECT aimq.enable_realtime_all('elsewhere')", DENIED),
    ("SELECT aimq.create_queue('mine')", DENIED),
    ("SELECT aimq.adopt_pgmq_notify('honest')", DENIED),
    ("SELECT aimq.adopt_pgmq_notify_all()", DENIED),
    ("SELECT aimq.recheck('honest')", DENIED),
    ("SELECT aimq.recheck()", DENIED),
    ("DROP TRIGGER aimq_realtime ON pgmq.q_honest", DENIED),
    ("ALTER TABLE pgmq.q_honest DISABLE TRIGGER ALL", DENIED),
    ("SELECT; LOCK TABLE pgmq.q_honest IN ACCESS SHARE MODE", DENIED),
    ("CREATE TRIGGER x BEFORE INSERT ON pgmq.q_honest EXECUTE FUNCTION aimq.realtime_trigger()", DENIED),
    ("UPDATE pg_trigger SET tgenabled = 'D'", DENIED),
    // To replace what aimq calls, and what calls aimq.
    ("DROP EVENT TRIGGER aimq_ddl", DENIED),
    ("ALTER EVENT TRIGGER aimq_ddl DISABLE", DENIED),
    ("ALTER EVENT TRIGGER aimq_archive OWNER TO CURRENT_USER", DENIED),
    ("CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION aimq.ddl_trigger()", DENIED),
    ("CREATE OR REPLACE FUNCTION aimq._table(queue text) RETURNS name LANGUAGE sql AS $$ SELECT 'x'::name $$", DENIED),
    ("CREATE FUNCTION aimq._table(queue varchar) RETURNS name LANGUAGE sql AS $$ SELECT 'x'::name $$", DENIED),
    ("ALTER FUNCTION aimq._table(text) OWNER TO CURRENT_USER", DENIED),
    ("CREATE FUNCTION pg_temp.mine() RETURNS trigger LANGUAGE c AS '$libdir/aimq', 'aimq_realtime_trigger'", DENIED),
    ("DROP EXTENSION aimq CASCADE", DENIED),
    ("ALTER EXTENSION aimq UPDATE", DENIED),
    ("LOAD '$libdir/plugins/aimq'", Fail("58P01")),
    // To call what is not meant to be called.
    ("SELECT aimq.realtime_trigger()", Fail("39P01")),
    ("SELECT aimq.event_trigger()", Fail("39P01")),
    ("SELECT aimq.ddl_trigger()", Fail("39P01")),
    ("SELECT aimq.archive_trigger()", Fail("39P01")),
    // To hurt the processes.
    ("SELECT pg_terminate_backend({notifier})", DENIED),
    ("SELECT pg_cancel_backend({launcher})", DENIED),
    ("SELECT pg_terminate_backend({listener})", DENIED),
    // Settings: those of the own session count there alone.
    ("SET aimq.enabled = off; SET aimq.delivery = transaction", BeHarmless),
    ("SET aimq.notify_interval = 60000", Fail("55P02")),
    ("SET aimq.max_queues = 1", Fail("55P02")),
    ("ALTER SYSTEM SET aimq.enabled = off", DENIED),
    ("ALTER ROLE postgres SET aimq.enabled = off", DENIED),
    // aimq's trigger functions on tables of the own session, with others' arguments and hostile ones.
    ("CREATE TEMP TABLE t (msg_id bigint, vt timestamptz, message jsonb, read_ct int);
      CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'honest');
      CREATE TRIGGER y BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION aimq.event_trigger('aimq:jobs', 'job_deleted', 'honest', 'ids');
      INSERT INTO t VALUES (-9223372036854775808, '-infinity', NULL, -1), (NULL, NULL, 'null', NULL), (1, 'infinity', '{}', 2147483647);
      DELETE FROM t", BeHarmless),
    ("CREATE TEMP TABLE u (vt timestamptz);
      CREATE TRIGGER x BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger(E'a\\n\"b', E'\\u00e9\\u0001', '''; DROP TABLE x; --', 'sink=both ids;;=,');
      INSERT INTO u VALUES (now())", BeHarmless),
    ("CREATE TEMP TABLE q_honest (LIKE t); SET search_path = pg_temp;
      CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
      SELECT 1 / (aimq._table('honest')::text = 'q_honest')::int", BeHarmless),
    ("SELECT aimq.ping('x', repeat('x', 64))", Fail("42602")),
    ("SELECT aimq.ping(repeat('\"', 63), E'\\n')", BeHarmless),
];

/// For a role with CREATEDB, CREATEROLE, pg_monitor, pg_signal_backend, CREATE on the database and on pgmq's schema, and
/// the queue `own`.
const OF_EVERYTHING: &[(&str, Must)] = &[
    // To silence others, or to learn of what is in other databases.
    ("SELECT aimq.disable_realtime('honest')", DENIED),
    ("SELECT aimq.disable_realtime_all()", DENIED),
    ("SELECT aimq.enable_realtime('honest', 'elsewhere')", DENIED),
    ("SELECT aimq.adopt_pgmq_notify('honest')", BeHarmless),
    ("ALTER TABLE pgmq.q_own RENAME TO q_honest", Fail("42P07")),
    ("DROP TABLE pgmq.q_honest", DENIED),
    ("SELECT pgmq.drop_queue('honest')", DENIED),
    ("SELECT 1 / count(*) FROM aimq.queues WHERE queue = 'elsewhere'", Fail("22012")),
    ("SELECT 1 / count(*) FROM aimq.stats WHERE queue = 'elsewhere'", Fail("22012")),
    ("SELECT 1 / count(*) FROM aimq._queue_counters() WHERE queue = 'elsewhere'", Fail("22012")),
    ("SELECT pg_terminate_backend({notifier})", DENIED),
    ("SELECT pg_terminate_backend({launcher})", DENIED),
    ("DROP EVENT TRIGGER aimq_archive", DENIED),
    ("CREATE FUNCTION aimq._call(text, text, text, text, name[]) RETURNS text LANGUAGE sql AS $$ SELECT 'DROP DATABASE' $$", DENIED),
    ("ALTER SCHEMA aimq RENAME TO mine", DENIED),
    ("COMMENT ON EXTENSION aimq IS 'x'", DENIED),
    // Objects that others' SQL could take for PostgreSQL's: a schema of the role's, which the victim has first in his
    // path. Each tells who calls it.
    ("CREATE SCHEMA evil;
      CREATE TABLE evil.ran (who name, what text, login name DEFAULT session_user);
      GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT ON evil.ran TO PUBLIC;
      CREATE FUNCTION evil.tell(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.ran (who, what) VALUES (current_user, $1); RETURN true; END $$;
      CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.tell('lower')::text $$;
      CREATE FUNCTION evil.format(text, VARIADIC name[]) RETURNS text LANGUAGE sql AS $$ SELECT evil.tell('format')::text $$;
      CREATE FUNCTION evil.cardinality(text[]) RETURNS integer LANGUAGE sql AS $$ SELECT evil.tell('cardinality')::int $$;
      CREATE FUNCTION evil.sum(bigint) RETURNS numeric LANGUAGE sql AS $$ SELECT evil.tell('sum')::int::numeric $$;
      CREATE FUNCTION evil.eq(oid, regnamespace) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.tell('=') $$;
      CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = oid, RIGHTARG = regnamespace);
      CREATE FUNCTION evil.eq(name, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.tell('=') $$;
      CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = name, RIGHTARG = text);
      CREATE TABLE evil.pg_class (oid oid, relname name); CREATE TABLE evil.pg_trigger (oid oid);
      CREATE TABLE evil.pg_proc (oid oid)", BeHarmless),
    // Code in the own table, which the notifier runs when it looks: an index, a policy, a default.
    ("CREATE FUNCTION evil.settings() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
         IF session_user = current_user THEN RETURN true; END IF;
         PERFORM set_config('search_path', 'evil, pg_catalog', false), set_config('statement_timeout', '1', false),
                 set_config('default_transaction_read_only', 'on', false), set_config('aimq.enabled', 'off', false);
         RETURN true; END $$;
      CREATE FUNCTION evil.escape() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
         BEGIN EXECUTE 'RESET ROLE'; PERFORM evil.tell('reset role'); EXCEPTION WHEN OTHERS THEN NULL; END;
         BEGIN EXECUTE 'SET ROLE postgres'; PERFORM evil.tell('set role'); EXCEPTION WHEN OTHERS THEN NULL; END;
         BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; PERFORM evil.tell('authorization'); EXCEPTION WHEN OTHERS THEN NULL; END;
         BEGIN EXECUTE 'CREATE TEMP TABLE x ()'; EXCEPTION WHEN OTHERS THEN NULL; END;
         BEGIN EXECUTE 'ALTER ROLE ' || quote_ident(current_user) || ' SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
         RETURN true; END $$;
      CREATE FUNCTION evil.looked(timestamptz) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
         RETURN evil.tell('look') AND evil.settings() AND evil.escape(); END $$;
      CREATE INDEX ON pgmq.q_own (vt) WHERE evil.looked('2000-01-01')", BeHarmless),
    ("ALTER TABLE pgmq.q_own ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON pgmq.q_own USING (evil.looked(vt))", BeHarmless),
    ("SELECT pgmq.send('own', '{}', 1)", BeHarmless),
    ("SELECT aimq.recheck('own')", BeHarmless),
    ("ALTER TABLE pgmq.q_own FORCE ROW LEVEL SECURITY", BeHarmless),
    ("SELECT aimq.recheck('own')", BeHarmless),
    ("ALTER TABLE pgmq.q_own DISABLE ROW LEVEL SECURITY", BeHarmless),
    // A trigger of the own table that runs code when a session of somebody else sends is the table's owner's right.
    // It may wake others' workers for nothing: it writes to a queue's table.
    ("CREATE TRIGGER x BEFORE INSERT ON pgmq.q_own FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'honest');
      SELECT pgmq.send('own', '{}'); DROP TRIGGER x ON pgmq.q_own", BeHarmless),
    ("CREATE TABLE pgmq.q_elsewhere (LIKE pgmq.q_own INCLUDING ALL);
      CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_elsewhere FOR EACH ROW
      EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'honest');
      INSERT INTO pgmq.q_elsewhere (vt, message) VALUES ('infinity', '{}'), ('-infinity', '{}')", BeHarmless),
    ("CREATE VIEW pgmq.q_view AS SELECT * FROM pgmq.q_own; DROP VIEW pgmq.q_view", BeHarmless),
    ("DROP TABLE pgmq.a_own; CREATE TABLE pgmq.a_own (vt text, msg_id text)", BeHarmless),
    // Hostile texts.
    ("SELECT aimq.create_queue('x''; DROP TABLE pgmq.q_honest; --')", Fail("P0001")),
    ("SELECT aimq.create_queue(E'\\u00e9\\u4e2d\"\\n%I%L')", BeHarmless),
    ("SELECT aimq.create_queue(repeat('x', 100))", Fail("P0001")),
    ("SELECT aimq.create_queue('')", Fail("42602")),
    ("SELECT aimq.enable_realtime('own', E'\\n\"''\\\\\\u00e9%s', E'\\t\"}]')", BeHarmless),
    ("SELECT pgmq.send('own', '\"\\\\\\\"\\n\"'::jsonb); UPDATE pgmq.q_own SET vt = '4714-11-24 00:00:00+00 BC'", BeHarmless),
    ("SELECT aimq.enable_realtime('own', repeat('x', 64))", Fail("42622")),
    ("SELECT aimq.enable_realtime('own', event => repeat('x', 9000))", Fail("54000")),
    ("SELECT aimq.enable_realtime('own', sink => 'notify; DROP')", Fail("22023")),
    ("SELECT aimq.enable_realtime('own', events => ARRAY[NULL, 'job_enqueued'])", Fail("22004")),
    ("CREATE DATABASE {database}_theirs", BeHarmless),
    ("DROP DATABASE {database}_theirs", BeHarmless),
];

struct World {
    database: Database,
    client: Client,
    listener: Listener,
    role: String,
}

impl World {
    /// A queue `honest` with a notifier and a listener, and one that is `elsewhere`.
    fn new(role: &str, elsewhere: &mut Option<(Database, Client, Listener)>) -> Self {
        *elsewhere = Some(started(&["elsewhere"]));
        let (database, client, listener) = started(&["honest"]);
        let role = database.role(role);
        Self { database, client, listener, role }
    }

    /// Runs each attack, and then sends and listens.
    fn endure(&mut self, attacks: &[(&str, Must)]) {
        let mut session = self.database.connect_as(&self.role);
        let honest = pid(self.listener.client());
        let mut wrong = Vec::new();
        for (attack, must) in attacks {
            let notifier = notifier_pid(&mut self.client);
            let launcher: i32 = value(
                &mut self.client,
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'aimq launcher'",
            );
            let sql = attack
                .replace("{listener}", &honest.to_string())
                .replace("{notifier}", &notifier.to_string())
                .replace("{launcher}", &launcher.to_string())
                .replace("{database}", &self.database.name);
            let result = session.batch_execute(&sql);
            let found =
                result.as_ref().err().map(|error| error.code().map_or("none", |code| code.code()));
            let wanted = if let Fail(code) = must { Some(*code) } else { None };
            if found != wanted {
                wrong.push(format!("{sql}: must {must:?}, and was {result:?}"));
            }
            run(&mut self.client, "SELECT pgmq.send('honest', '{}')");
            self.listener.wait_for_count("honest", 1);
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        // The times are kept as well, and who blocks is called.
        run(&mut self.client, "SELECT pgmq.purge_queue('honest')");
        let blocked =
            block(&self.database, "SELECT msg_id FROM aimq.read('honest', 60, 1, '60 s')");
        run(&mut self.client, "SELECT pgmq.send('honest', '{}', 1)");
        self.listener.wait_for_count("honest", 1);
        assert_eq!(blocked.read().len(), 1);
    }
}

#[test]
fn a_role_that_has_nothing_gets_nowhere() {
    let mut elsewhere = None;
    World::new("nothing", &mut elsewhere).endure(OF_NOTHING);
}

#[test]
fn a_role_that_has_everything_but_superuser_gets_nowhere() {
    let mut elsewhere = None;
    let mut world = World::new("everything", &mut elsewhere);
    let (name, role) = (world.database.name.clone(), world.role.clone());
    run(
        &mut world.client,
        &format!(
            "ALTER ROLE {role} CREATEDB CREATEROLE; GRANT pg_monitor, pg_signal_backend TO {role};
             GRANT CREATE ON DATABASE {name} TO {role}; GRANT USAGE, CREATE ON SCHEMA pgmq TO {role};
             GRANT ALL ON pgmq.meta TO {role}"
        ),
    );
    run(&mut world.database.connect_as(&role), "SELECT aimq.create_queue('own')");
    world.endure(OF_EVERYTHING);
    // The code in its table ran, and only as its owner: in the notifier, and in sessions of its own.
    let who = "SELECT DISTINCT who::text FROM evil.ran";
    assert_eq!(names(&mut world.client, who), std::slice::from_ref(&role));
    let in_notifier = "SELECT DISTINCT what FROM evil.ran WHERE login <> who";
    assert_eq!(names(&mut world.client, in_notifier), ["look"]);
    assert!(!boolean(
        &mut world.client,
        &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")
    ));
    // Nor do others run what it has put into their path.
    run(&mut world.client, "SET search_path = evil, pg_catalog");
    for sql in [
        "SELECT * FROM aimq.queues",
        "SELECT * FROM aimq.stats",
        "SELECT * FROM aimq.waiters",
        "SELECT * FROM aimq.doctor()",
        "SELECT aimq.disable_realtime('honest')",
        "SELECT aimq.enable_realtime('honest')",
        "SELECT aimq.create_queue('another')",
        "SELECT aimq.wait('{another}', '1 ms')",
        "CALL aimq.wait_for('{another}', '1 ms')",
        "SELECT aimq.recheck()",
        "SELECT aimq.ping('x', 'y')",
    ] {
        run(&mut world.client, sql);
    }
    assert_eq!(names(&mut world.client, who), [role]);
}

/// Its sessions take every place for sessions that block: others' then look for themselves, and find their messages.
#[test]
fn who_takes_every_place_keeps_nobody_from_reading() {
    let (_alone, cluster) = server(&["aimq.max_waiters=4"]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue('theirs')");
    let mut blocked = Vec::new();
    for _ in 0..4 {
        let sql = "SELECT msg_id FROM aimq.read('theirs', 60, 1, '60 s')";
        blocked.push(block_over(connect(&cluster), &mut client, sql));
    }
    assert!(!boolean(&mut client, "SELECT aimq._has_place()"));
    let mut listener = listen(&cluster);
    let mut honest = connect(&cluster);
    let reading = std::thread::spawn(move || value::<i64>(&mut honest, READ));
    wait_until("the read to run", || {
        boolean(
            &mut client,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ^@ 'SELECT msg_id FROM aimq.read(''a''' AND state = 'active')",
        )
    });
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    assert_eq!(reading.join().expect("a read"), 1);
    for one in &blocked {
        run(&mut client, &format!("SELECT pg_terminate_backend({})", one.pid));
    }
    for one in blocked {
        assert!(one.end().is_err(), "it was ended");
    }
}

/// He made the schema `aimq` before the extension came, to have a superuser call what he puts there.
#[test]
fn a_schema_that_a_stranger_made_first_is_refused() {
    let database = Database::empty();
    let mut client = database.connect();
    let role = database.role("early");
    run(
        &mut client,
        &format!("CREATE EXTENSION pgmq; GRANT CREATE ON DATABASE {} TO {role}", database.name),
    );
    run(&mut database.connect_as(&role), "CREATE SCHEMA aimq");
    let error = failure(&mut client, "CREATE EXTENSION aimq");
    assert_eq!(error.code().code(), "42501", "{error}");
    assert!(
        error.hint().is_some_and(|hint| hint.contains("ALTER SCHEMA aimq OWNER TO")),
        "{error:?}"
    );
    run(&mut client, "ALTER SCHEMA aimq OWNER TO postgres");
    run(&mut client, &format!("GRANT CREATE ON SCHEMA aimq TO {role}"));
    assert_eq!(failure(&mut client, "CREATE EXTENSION aimq").code().code(), "42501");
    run(&mut client, &format!("REVOKE CREATE ON SCHEMA aimq FROM {role}"));
    run(&mut client, "CREATE EXTENSION aimq");
}
