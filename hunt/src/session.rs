//! A session that is made again when it was lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::Client;

use crate::world::World;

/// How long a lost session waits before it comes back.
const BACK_OFF: Duration = Duration::from_millis(30);

/// A session in a database, by the database's number.
pub(crate) struct Session {
    pub(crate) world: Arc<World>,
    pub(crate) database: usize,
    name: String,
    /// What it sets at first.
    settings: &'static str,
    is_pooled: bool,
    client: Option<Client>,
}

impl Session {
    /// One that is connected when it is first used.
    pub(crate) fn new(
        world: &Arc<World>,
        database: usize,
        name: &str,
        settings: &'static str,
    ) -> Self {
        let world = Arc::clone(world);
        Self { world, database, name: name.to_owned(), settings, is_pooled: false, client: None }
    }

    /// The same through pgbouncer, which knows simple queries only, and no settings of a session.
    pub(crate) fn pooled(world: &Arc<World>, database: usize, name: &str) -> Self {
        Self { is_pooled: true, ..Self::new(world, database, name, "") }
    }

    /// The client; connects if there is none.
    pub(crate) fn client(&mut self) -> Result<&mut Client> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = None;
            let world = &self.world;
            let folder =
                if self.is_pooled { world.pooler.folder() } else { world.cluster.folder() };
            let connected = world
                .connect_to(folder, &world.databases[self.database], &self.name)
                .and_then(|mut client| {
                    client.batch_execute(self.settings)?;
                    Ok(client)
                });
            if connected.is_err() {
                std::thread::sleep(BACK_OFF);
            }
            self.client = Some(connected?);
        }
        self.client.as_mut().context("connected")
    }

    /// Runs statements one after the other, each in a call of its own; what fails is rolled back.
    pub(crate) fn run(&mut self, statements: &[&str]) -> Result<()> {
        statements.iter().try_for_each(|sql| {
            let done = self.client()?.batch_execute(sql);
            self.after(done)
        })
    }

    /// One value of the first row, if there is one.
    pub(crate) fn value<T: for<'a> postgres::types::FromSql<'a>>(
        &mut self,
        sql: &str,
    ) -> Result<Option<T>> {
        let row = self.client()?.query_opt(sql, &[]);
        Ok(self.after(row)?.and_then(|row| row.get(0)))
    }

    /// After an error nothing is left open.
    pub(crate) fn after<T>(&mut self, done: Result<T, postgres::Error>) -> Result<T> {
        if done.is_err() {
            if let Some(client) = &mut self.client {
                let _ = client.batch_execute("ROLLBACK");
            }
            if self.client.as_ref().is_some_and(Client::is_closed) {
                self.client = None;
            }
        }
        Ok(done?)
    }

    /// Notices if it has ended meanwhile. Then it is made again when it is next used.
    pub(crate) fn check(&mut self) {
        if self.client.is_some() {
            let _ = self.run(&["SELECT 1"]);
        }
    }

    /// Its application name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Goes away without a word.
    pub(crate) fn leave(&mut self) {
        self.client = None;
    }
}
