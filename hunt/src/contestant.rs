//! Who wakes the listeners: aimq, or what it is compared with. The hunt must find the others' losses, else it is blind.

use clap::ValueEnum;

use crate::queues::{CHANNEL, OTHER_CHANNEL, OWN_CHANNEL, QUEUES, Queue, literal};

/// Who wakes the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// The only one for which there are sessions that block, DDL and faults.
    #[value(name = "aimq")]
    Aimq,
    /// `pgmq.enable_notify_insert` with its default throttle.
    #[value(name = "pgmq_250")]
    Pgmq250,
    /// The same without a throttle.
    #[value(name = "pgmq_0")]
    Pgmq0,
    /// A trigger in PL/pgSQL that notifies.
    #[value(name = "trigger")]
    Trigger,
}

impl Contestant {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aimq => "aimq",
            Self::Pgmq250 => "pgmq_250",
            Self::Pgmq0 => "pgmq_0",
            Self::Trigger => "trigger",
        }
    }

    /// Whether this is not the one that must lose nothing.
    pub(crate) fn is_other(self) -> bool {
        self != Self::Aimq
    }

    /// What a database needs for it.
    pub(crate) fn prelude(self) -> &'static str {
        if self != Self::Trigger {
            return "";
        }
        "CREATE FUNCTION public.hunt_notify() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_notify(TG_ARGV[0], ''); RETURN NULL; END $$"
    }

    /// The statement that makes it announce a queue.
    pub(crate) fn attach(self, queue: &Queue) -> String {
        let name = literal(queue.name);
        match self {
            Self::Aimq => enable(queue, queue.channel),
            Self::Pgmq250 => format!("SELECT pgmq.enable_notify_insert({name})"),
            Self::Pgmq0 => format!("SELECT pgmq.enable_notify_insert({name}, 0)"),
            Self::Trigger => format!(
                "CREATE TRIGGER hunt_notify AFTER INSERT ON pgmq.{} FOR EACH STATEMENT
                 EXECUTE FUNCTION public.hunt_notify({})",
                queue.table(),
                literal(&self.channel(queue))
            ),
        }
    }

    /// Where it announces a queue that is as it was made.
    pub(crate) fn channel(self, queue: &Queue) -> String {
        match self {
            Self::Aimq => queue.channel.to_owned(),
            Self::Pgmq250 | Self::Pgmq0 => format!("pgmq.{}.INSERT", queue.table()),
            Self::Trigger => format!("hunt.{}", queue.name),
        }
    }

    /// All channels of its that there can be.
    pub(crate) fn channels(self) -> Vec<String> {
        match self {
            Self::Aimq => [CHANNEL, OWN_CHANNEL, OTHER_CHANNEL].map(str::to_owned).to_vec(),
            _ => QUEUES.iter().map(|queue| self.channel(queue)).collect(),
        }
    }
}

/// The statement that makes a queue realtime.
pub(crate) fn enable(queue: &Queue, channel: &str) -> String {
    let name = literal(queue.name);
    if channel == CHANNEL {
        return format!("SELECT aimq.enable_realtime({name})");
    }
    format!("SELECT aimq.enable_realtime({name}, channel => {})", literal(channel))
}
