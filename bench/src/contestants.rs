//! Who is measured: ways to wake workers, each with a database and queues of its own.

use anyhow::Result;
use clap::ValueEnum;
use postgres::Client;
use serde::{Deserialize, Serialize};

/// A contestant's name in raw results and on the command line.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Key {
    /// The queue alone, on the server with aimq preloaded.
    None,
    /// aimq's notifier, preloaded.
    Notifier,
    /// aimq, one `pg_notify` in each transaction.
    Transaction,
    /// A row trigger in PL/pgSQL with a constant payload.
    RowConstant,
    /// A row trigger in PL/pgSQL with the message's id.
    RowId,
    /// A statement trigger in PL/pgSQL.
    Statement,
    /// pgmq's own trigger without its throttle.
    #[serde(rename = "pgmq_0")]
    #[value(name = "pgmq_0")]
    Pgmq0,
    /// pgmq's own trigger, at most one notification in 250 ms.
    #[serde(rename = "pgmq_250")]
    #[value(name = "pgmq_250")]
    Pgmq250,
    /// contrib's triggered change notification.
    Tcn,
    /// The queue alone, on the server without preload.
    NonePlain,
    /// aimq's notifier without preload, shared memory from the DSM registry.
    NotifierPlain,
}

pub(crate) const ALL: [Key; 11] = [
    Key::None,
    Key::Notifier,
    Key::Transaction,
    Key::RowConstant,
    Key::RowId,
    Key::Statement,
    Key::Pgmq0,
    Key::Pgmq250,
    Key::Tcn,
    Key::NonePlain,
    Key::NotifierPlain,
];

/// The queue that the load goes to.
pub(crate) const QUEUE: &str = "q";
/// A queue beside it that shares its channel: single messages whose way is followed.
pub(crate) const PROBE: &str = "probe";
/// A queue beside it with a channel of its own.
pub(crate) const APART: &str = "apart";

/// The trigger functions that people write, as they write them.
const FUNCTIONS: &str = "
    CREATE FUNCTION notify_constant() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify(TG_ARGV[0], TG_ARGV[1]); RETURN NULL; END $$;
    CREATE FUNCTION notify_id() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify(TG_ARGV[0], TG_ARGV[1] || ':' || NEW.msg_id); RETURN NULL; END $$;";

impl Key {
    /// As people read it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::None => "no trigger",
            Self::Notifier => "aimq notifier",
            Self::Transaction => "aimq transaction",
            Self::RowConstant => "plpgsql row trigger",
            Self::RowId => "plpgsql row, message id",
            Self::Statement => "plpgsql statement trigger",
            Self::Pgmq0 => "pgmq notify_insert, 0 ms",
            Self::Pgmq250 => "pgmq notify_insert, 250 ms",
            Self::Tcn => "contrib tcn",
            Self::NonePlain => "no trigger, no preload",
            Self::NotifierPlain => "aimq notifier, no preload",
        }
    }

    /// Whether its server has aimq in `shared_preload_libraries`.
    pub(crate) fn preloaded(self) -> bool {
        !matches!(self, Self::NonePlain | Self::NotifierPlain)
    }

    /// What it is compared with: the same server without a trigger.
    pub(crate) fn baseline(self) -> Self {
        if self.preloaded() { Self::None } else { Self::NonePlain }
    }

    pub(crate) fn is_notifier(self) -> bool {
        matches!(self, Self::Notifier | Self::NotifierPlain)
    }

    pub(crate) fn is_aimq(self) -> bool {
        self.is_notifier() || self == Self::Transaction
    }

    /// Whether it wakes anybody.
    pub(crate) fn wakes(self) -> bool {
        !matches!(self, Self::None | Self::NonePlain)
    }

    /// Those whose ratio to no trigger is near one, and no trigger itself.
    pub(crate) fn nears_baseline(self) -> bool {
        self.is_notifier() || !self.wakes()
    }

    /// Whether each transaction that enqueues notifies by itself. Those with a throttle lose wake-ups,
    /// so they are no rivals of something that loses none.
    pub(crate) fn in_transaction(self) -> bool {
        self.wakes() && !self.is_notifier() && self != Self::Pgmq250
    }

    pub(crate) fn database(self) -> String {
        format!("bench_{}", self.name())
    }

    /// As in raw results.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Where notifications about a queue go.
    pub(crate) fn channel(self, queue: &str) -> String {
        match self {
            Self::Pgmq0 | Self::Pgmq250 => format!("pgmq.q_{queue}.INSERT"),
            _ if queue == APART => "apart".into(),
            _ => "aimq:jobs".into(),
        }
    }

    /// Whether a notification that came on the queue's channel is about this queue.
    pub(crate) fn tells_of(self, queue: &str, payload: &str) -> bool {
        match self {
            Self::Pgmq0 | Self::Pgmq250 => true,
            Self::Tcn => payload.contains(&format!("\"q_{queue}\"")),
            Self::RowId => payload.split(':').next() == Some(queue),
            Self::RowConstant | Self::Statement => payload == queue,
            // A payload without queues says "check all".
            _ => parse(payload).is_none_or(|queues| queues.contains_key(queue)),
        }
    }

    /// How many messages of the load's queue a payload of aimq tells of.
    pub(crate) fn counted(payload: &str) -> u64 {
        parse(payload).and_then(|queues| queues.get(QUEUE).map(|news| news.count)).unwrap_or(0)
    }

    /// Makes the three queues, and wakes workers its way.
    pub(crate) fn set_up(self, client: &mut Client) -> Result<()> {
        client.batch_execute("SET client_min_messages = warning; CREATE EXTENSION aimq CASCADE")?;
        if self == Self::Tcn {
            client.batch_execute("CREATE EXTENSION tcn")?;
        }
        client.batch_execute(FUNCTIONS)?;
        for queue in [QUEUE, PROBE, APART] {
            client.execute("SELECT pgmq.create($1)", &[&queue])?;
            client.batch_execute(&self.attach(queue))?;
        }
        Ok(())
    }

    fn attach(self, queue: &str) -> String {
        let channel = self.channel(queue);
        let trigger = |each: &str, function: &str| {
            format!(
                "CREATE TRIGGER wake AFTER INSERT ON pgmq.q_{queue} FOR EACH {each} EXECUTE FUNCTION {function}"
            )
        };
        match self {
            Self::None | Self::NonePlain => String::new(),
            Self::Notifier | Self::NotifierPlain | Self::Transaction => {
                format!("SELECT aimq.enable_realtime('{queue}', channel => '{channel}')")
            }
            Self::RowConstant => {
                trigger("ROW", &format!("notify_constant('{channel}', '{queue}')"))
            }
            Self::RowId => trigger("ROW", &format!("notify_id('{channel}', '{queue}')")),
            Self::Statement => {
                trigger("STATEMENT", &format!("notify_constant('{channel}', '{queue}')"))
            }
            Self::Pgmq0 => format!("SELECT pgmq.enable_notify_insert('{queue}', 0)"),
            Self::Pgmq250 => format!("SELECT pgmq.enable_notify_insert('{queue}', 250)"),
            Self::Tcn => trigger("ROW", &format!("triggered_change_notification('{channel}')")),
        }
    }
}

fn parse(
    payload: &str,
) -> Option<std::collections::BTreeMap<String, aimq_core::payload::QueueNews>> {
    serde_json::from_str::<aimq_core::payload::Payload>(payload).ok()?.queues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_told_apart() {
        let both = r#"{"event":"job_enqueued","queues":{"q":{"count":3},"probe":{"count":1}}}"#;
        let other = r#"{"event":"job_enqueued","queues":{"q":{"count":3}}}"#;
        assert!(Key::Notifier.tells_of(PROBE, both));
        assert!(!Key::Notifier.tells_of(PROBE, other));
        assert!(Key::Notifier.tells_of(PROBE, r#"{"event":"job_enqueued"}"#));
        assert_eq!(Key::counted(both), 3);
        assert!(Key::Tcn.tells_of(PROBE, r#""q_probe",I,"msg_id"='1'"#));
        assert!(!Key::Tcn.tells_of(PROBE, r#""q_q",I,"msg_id"='1'"#));
        assert!(Key::RowId.tells_of(PROBE, "probe:17"));
    }

    #[test]
    fn every_name_is_the_same_on_the_command_line_and_in_the_results() {
        for key in ALL {
            assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{}\"", key.name()));
        }
    }
}
